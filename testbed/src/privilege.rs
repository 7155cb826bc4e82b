//! The privileges that network namespaces need: root, or root in a user namespace.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{netns, tool};

/// Set in the process that runs inside the user namespace made by [`ensure()`].
const INSIDE: &str = "CFRAME_TESTBED_USERNS";

/// `CAP_NET_ADMIN`, `CAP_NET_RAW` and `CAP_SYS_ADMIN` of `linux/capability.h`.
const NEEDED: &[(u32, &str)] = &[(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (21, "CAP_SYS_ADMIN")];

/// Makes sure that labs can be created. As another user than root it **executes the program
/// again**, with the same arguments, in a new user, network and mount namespace, so call it first.
pub fn ensure() -> Result<()> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    if !missing_capabilities()?.is_empty() {
        ensure!(!is_inside(), "no capabilities inside the user namespace: run as root");
        return Err(execute_in_user_namespace());
    }
    if is_inside() {
        mount_run()?;
    }
    Ok(())
}

/// Whether this process runs in a user namespace made by [`ensure()`].
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Checks that edges can open `/dev/net/tun`, which without root depends on its mode.
pub fn ensure_tun() -> Result<()> {
    let tun = Path::new("/dev/net/tun");
    if !tun.exists() {
        bail!(
            "{} is missing: as root, `modprobe tun`, or `mkdir -p /dev/net && mknod {0} c 10 200`",
            tun.display()
        );
    }
    fs::OpenOptions::new().read(true).write(true).open(tun).map(drop).map_err(|error| {
        anyhow!("{}: {error}: as root, `chmod 0666 {0}`, or run as root", tun.display())
    })
}

/// Returns an error if this process lacks the capabilities for a lab.
pub(crate) fn check() -> Result<()> {
    let missing = missing_capabilities()?;
    ensure!(
        missing.is_empty(),
        "a lab needs {}: run as root, or call privilege::ensure() first",
        missing.join(" and ")
    );
    Ok(())
}

fn missing_capabilities() -> Result<Vec<&'static str>> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    Ok(missing_in(&status))
}

/// The needed capabilities that are not effective, given the text of `/proc/PID/status`.
fn missing_in(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    NEEDED.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

const UNSHARE: [&str; 4] = ["--user", "--map-root-user", "--net", "--mount"];

/// Replaces this process; returns only with the error if that fails.
fn execute_in_user_namespace() -> anyhow::Error {
    let path = search_path();
    let mut probe = Command::new("unshare");
    probe.args(UNSHARE).arg("true").env("PATH", &path);
    if let Err(error) = tool::run(&mut probe, "") {
        return error.context(explain_refusal());
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return anyhow!(error).context("finding this program's own path"),
    };
    let mut again = Command::new("unshare");
    again
        .args(UNSHARE)
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env("PATH", path)
        .env(INSIDE, "1");
    let error = again.exec();
    tool::cannot_start(&again, error)
}

/// `PATH` with the directories of `ip`, `nft` and `tc`, which many users' `PATH` lacks.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Names the setting that forbids user namespaces, if it is a known one.
fn explain_refusal() -> String {
    const SETTINGS: [(&str, &str, &str); 3] = [
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
    ];
    let start = "a lab needs root, or a user namespace, which this system refuses";
    SETTINGS
        .iter()
        .find(|(key, bad, _)| {
            fs::read_to_string(format!("/proc/sys/{key}")).is_ok_and(|value| value.trim() == *bad)
        })
        .map_or_else(
            || format!("{start}: run as root"),
            |(key, bad, good)| {
                let key = key.replace('/', ".");
                format!("{start} ({key} = {bad}): run as root, or as root `sysctl -w {key}={good}`")
            },
        )
}

/// Mounts a tmpfs over `/run` in this mount namespace, because `ip netns` needs a writable
/// `/run/netns`.
fn mount_run() -> Result<()> {
    if Path::new(netns::DIR).is_dir() && fs::metadata("/run/.cframe-testbed").is_ok() {
        return Ok(());
    }
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"]);
    tool::run(&mut mount, "")?;
    fs::create_dir_all(netns::DIR).with_context(|| format!("creating {}", netns::DIR))?;
    fs::write("/run/.cframe-testbed", "").context("writing /run/.cframe-testbed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_in("CapEff:\t000001fffeffffff\n"), Vec::<&str>::new());
        assert_eq!(missing_in("CapEff:\t0000000000003000\n"), ["CAP_SYS_ADMIN"]);
        assert_eq!(missing_in("").len(), NEEDED.len());
    }
}
