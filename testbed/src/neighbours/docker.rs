use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::run;
use crate::host::Host;
use crate::privilege;
use crate::process::Process;
use crate::wait::wait_until;

const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Where distributions install the client that fits the engine; another one may come first in `PATH`.
const CLIENT: &str = "/usr/bin/docker";

/// A docker engine on a host of a lab: Debian's docker.io with its own containerd. Dropping it kills it with its
/// containers.
///
/// It runs in namespaces of its own for mounts and processes, so that nothing is left: `/run` and `/etc/docker` are in
/// memory, containers and their parents end with the engine, and mounts with its namespace. Its bridges and its
/// firewall rules are the host's. Its cgroups are below one that is named like the lab, which the lab removes.
#[derive(Debug)]
pub struct Docker {
    dir: PathBuf,
    host: Host,
    lab: String,
    process: Process,
}

/// Its process is the first of its own namespace, where `--kill-child` kills it with the one outside.
const ENGINE: &str = r#"
mount -t tmpfs tmpfs /run
mkdir -p /etc/docker
mount -t tmpfs tmpfs /etc/docker
exec dockerd --storage-driver vfs --data-root "$1/data" --exec-root /run/docker --pidfile /run/docker.pid \
    -H "unix://$1/docker.sock" --cgroup-parent="/$2"
"#;

impl Docker {
    /// Starts an engine, and waits until it has made its bridge and its rules.
    ///
    /// # Errors
    /// Without real root: it needs cgroups.
    pub fn start(host: &Host) -> Result<Self> {
        ensure!(
            !privilege::is_inside(),
            "docker needs root: in a user namespace it has no cgroups"
        );
        let lab = host.netns().name().split('-').next().unwrap_or_default().to_owned();
        let dir = host.dir().join(format!("docker-{}", host.name()));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let mut engine = host.command("unshare");
        engine.args(["--pid", "--fork", "--kill-child=KILL", "--mount", "--mount-proc"]);
        engine.args(["sh", "-ec", ENGINE, "docker"]).arg(&dir).arg(&lab);
        let process = host.spawn(&format!("docker-{}", host.name()), engine)?;
        let mut docker = Self { dir, host: host.clone(), lab, process };
        let mut ended = false;
        let ready = wait_until(START_TIMEOUT, || {
            ended = !docker.process.is_running();
            ended || docker.run(&["version"]).is_ok()
        });
        ensure!(ready.is_ok() && !ended, "docker does not start:\n{}", docker.process.log_tail(20));
        docker.make_image()?;
        Ok(docker)
    }

    /// Runs `docker ARGS`.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let program = if Path::new(CLIENT).exists() { CLIENT } else { "docker" };
        let mut command = self.host.command(program);
        command.arg("-H").arg(format!("unix://{}/docker.sock", self.dir.display()));
        command.env("DOCKER_CONFIG", &self.dir);
        run(command.args(args))
    }

    /// Makes a bridge network with a subnet, such as 172.20.0.0/16, whose device is `br-NAME`.
    pub fn network(&self, name: &str, subnet: &str) -> Result<()> {
        let device = format!("com.docker.network.bridge.name=br-{name}");
        self.run(&["network", "create", "--subnet", subnet, "--opt", &device, name])?;
        Ok(())
    }

    /// Starts a web server in a container in `network`, published at a port of the host.
    pub fn web(&self, name: &str, network: &str, port: u16) -> Result<()> {
        let publish = format!("{port}:80");
        let run = ["run", "--detach", "--name", name, "--network", network, "--publish", &publish];
        let server = ["web", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"];
        self.run(&[&run[..], &server[..]].concat())?;
        Ok(())
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// An image named `web`, made of nothing but a static busybox and a page.
    fn make_image(&self) -> Result<()> {
        let root = self.dir.join("image");
        fs::create_dir_all(root.join("bin"))?;
        fs::create_dir_all(root.join("www"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox"))
            .context("copying /bin/busybox: apt-get install busybox-static")?;
        fs::write(root.join("www/index.html"), "a container's page\n")?;
        let tar = self.dir.join("image.tar");
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."))?;
        self.run(&["import", &tar.display().to_string(), "web"])?;
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        drop(self.process.kill9());
        // The lab removes what is not empty yet.
        let find = ["/sys/fs/cgroup", "-depth", "-type", "d", "-path"];
        for path in [format!("*/{}/*", self.lab), format!("*/{}", self.lab)] {
            drop(Command::new("find").args(find).args([&path, "-delete"]).output());
        }
    }
}
