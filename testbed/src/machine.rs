//! Hosts with their own file system, processes and host name besides their own network.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::lab::Lab;
use crate::process::Process;

const BOOT: &str = include_str!("machine/boot.sh");
const BOOT_TIMEOUT: Duration = Duration::from_secs(10);
/// The search path of root on Debian.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A host with its own processes and its own `/etc`, `/var`, `/root`, `/run`, `/tmp` and `/usr/local`.
/// Programs and libraries in `/usr` are those of the machine that the lab runs on.
///
/// All files are in memory, in a mount namespace that ends with the lab, even if the lab's process is
/// killed. In a user namespace, root is the only user, although `/etc/passwd` has more.
#[derive(Debug)]
pub struct Machine {
    name: String,
    host: Host,
    init: Process,
}

impl Machine {
    /// Boots `host` as `name`, with `hosts` as lines of `/etc/hosts`. Each of `shares` is a file or
    /// directory outside, and the absolute path at which the machine can read it.
    pub fn boot(
        lab: &Lab,
        host: &Host,
        name: &str,
        hosts: &str,
        shares: &[(&Path, &str)],
    ) -> Result<Self> {
        let dir = lab.path(&format!("machine-{name}"));
        std::fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let script = lab.path(&format!("boot-{name}.sh"));
        std::fs::write(&script, BOOT).with_context(|| format!("writing {}", script.display()))?;
        let mut command = host.command("unshare");
        command
            .args(["--mount", "--pid", "--uts", "--fork", "--kill-child"])
            .args(["--propagation", "private", "--", "bash"])
            .arg(&script)
            .arg(&dir)
            .args([name, hosts]);
        for (outside, inside) in shares {
            command.arg(outside).arg(inside);
        }
        let mut init = host.spawn(&format!("machine-{name}"), command)?;
        init.wait_for_log("up\n", BOOT_TIMEOUT).with_context(|| format!("booting {name}"))?;
        Ok(Self { name: name.to_owned(), host: host.clone(), init })
    }

    /// The host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A command that runs on it as root, in root's home, with the environment of a login.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let namespaces = format!("/proc/{}/ns", self.init.pid());
        let mut command = self.host.command("nsenter");
        command
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--pid={namespaces}/pid_for_children"))
            .arg(format!("--uts={namespaces}/uts"))
            .args(["--", "env", "--chdir=/root"])
            .arg(program)
            .env_clear()
            .envs([("PATH", PATH), ("HOME", "/root"), ("USER", "root"), ("LANG", "C.UTF-8")]);
        command
    }
}
