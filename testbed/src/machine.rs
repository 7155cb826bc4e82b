//! Hosts that have more than a network of their own: a file system, processes, a name.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Host, Lab, Process};

const BOOT: &str = include_str!("machine/boot.sh");
const PATIENCE: Duration = Duration::from_secs(10);
/// The search path of root on Debian.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A host whose `/etc`, `/var`, `/root`, `/run`, `/tmp` and `/usr/local` are its own, as are its
/// processes. Programs and libraries in `/usr` are those of the machine that the lab runs on.
///
/// All files are in memory, in a mount namespace which ends with the lab however that ends. Without
/// root it has one user, root, whatever is in `/etc/passwd`.
#[derive(Debug)]
pub struct Machine {
    name: String,
    host: Host,
    init: Process,
}

impl Machine {
    /// Boots `host` as `name`, with lines for `/etc/hosts`. Each of `shares` is a file or directory
    /// outside, and the absolute path at which the machine can read it.
    ///
    /// # Errors
    /// If the kernel refuses a namespace or a mount, with the end of what was said.
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
        init.wait_for_log("up\n", PATIENCE).with_context(|| format!("booting {name}"))?;
        Ok(Self { name: name.to_owned(), host: host.clone(), init })
    }

    /// Its name, which `hostname` says too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A command that runs on it as root, in root's home, with an environment as after a login.
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
