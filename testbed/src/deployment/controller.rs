//! The controller program: its files, its start, its local HTTP port.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::http::http_get;
use super::prompt::{Output, Transcript, as_typed};
use super::{COMMAND_TIMEOUT, Deployment, clean_command};
use crate::host::Host;
use crate::process::Process;
use crate::wait::wait_until;

/// The default of `--metrics-listen`.
const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
const READY_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The paths of a deployment's files.
#[derive(Clone, Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn new(mesh: &str, dir: &Path) -> Self {
        Self(dir.join(format!("mesh-{mesh}")))
    }

    pub(super) fn create_dir(&self) -> Result<()> {
        let created = DirBuilder::new().mode(0o700).recursive(true).create(&self.0);
        created.with_context(|| format!("creating {}", self.0.display()))
    }

    /// The data directory of the first controller.
    pub(super) fn controller(&self) -> PathBuf {
        self.0.join("controller")
    }

    /// The data directory of a controller that has joined.
    fn joined(&self, name: &str) -> PathBuf {
        self.0.join(format!("controller-{name}"))
    }

    /// The operator's `XDG_CONFIG_HOME`.
    pub(super) fn operator(&self) -> PathBuf {
        self.0.join("operator")
    }

    pub(super) fn contexts(&self) -> PathBuf {
        self.operator().join("cframe/config.toml")
    }

    pub(super) fn edge(&self, namespace: &str, name: &str) -> PathBuf {
        self.0.join(format!("edge-{namespace}-{name}"))
    }

    /// Used in place of `/etc/cframe/controller.toml`, which may belong to a controller of this machine.
    fn config(&self) -> PathBuf {
        self.0.join("controller.toml")
    }
}

/// A running controller. Dropping it kills it.
#[derive(Debug)]
pub struct Controller {
    name: String,
    host: Host,
    transcript: Transcript,
    process: Process,
}

impl Controller {
    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.transcript.typed(&self.host, "pkill -KILL cframe-controller");
        self.process.kill9()
    }

    /// Starts it again after its end, and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        self.transcript.typed(&self.host, "cframe-controller run &");
        self.process.restart()?;
        self.wait_ready()
    }

    /// Stops it with SIGTERM, starts it again, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.process.terminate(STOP_TIMEOUT)?;
        self.start()
    }

    /// Waits until its `/readyz` answers with 200.
    pub fn wait_ready(&mut self) -> Result<()> {
        let mut ended = false;
        let waited = wait_until(READY_TIMEOUT, || {
            ended = !self.process.is_running();
            ended || matches!(self.http("/readyz"), Ok((200, _)))
        });
        let state = match waited {
            Ok(_) if !ended => return Ok(()),
            Ok(_) => "has ended",
            Err(_) => "is not ready",
        };
        let Self { name, process, .. } = self;
        bail!("controller {name} {state}; the end of its log:\n{}", process.log_tail(20))
    }

    /// Sends `GET path` to its local HTTP port; returns the status code and the body.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        self.host.enter(|| http_get(HTTP, path))?
    }
}

pub(super) enum Origin<'a> {
    /// The first controller of a new mesh, with the text of its configuration file.
    New { config: &'a str },
    /// The first controller of a mesh that an earlier run has created.
    Existing,
    /// One more controller, signed by the root of the first.
    Join { name: &'a str },
}

/// Starts a controller, after `cframe-controller init` unless it exists.
pub(super) fn start(
    origin: &Origin<'_>,
    mesh: &str,
    files: &Files,
    host: &Host,
    program: &Path,
    transcript: Transcript,
) -> Result<Controller> {
    let (name, dir) = match origin {
        Origin::New { .. } | Origin::Existing => ("controller", files.controller()),
        Origin::Join { name } => (*name, files.joined(name)),
    };
    let command = || command(files, &dir, host, program.to_owned());
    let mut init = command();
    init.arg("init");
    match origin {
        Origin::New { config } => {
            fs::write(files.config(), config).context("writing the controller's configuration")?;
            init.args(["--mesh", mesh]);
        }
        Origin::Join { name } => {
            init.args(["--join", "--name", name, "--root"]).arg(files.controller().join("ca"));
        }
        Origin::Existing => {}
    }
    if !matches!(origin, Origin::Existing) {
        for address in host.addresses() {
            init.args(["--address", &address.addr().to_string()]);
        }
        transcript.run(host, init, COMMAND_TIMEOUT)?.success()?;
    }
    let mut run = command();
    run.arg("run");
    transcript.typed(host, &format!("{} &", as_typed(&run)));
    let process = host.spawn(&format!("{mesh}-{name}"), run)?;
    let (name, host) = (name.to_owned(), host.clone());
    let mut controller = Controller { name, host, transcript, process };
    controller.wait_ready()?;
    Ok(controller)
}

fn command(files: &Files, dir: &Path, host: &Host, program: PathBuf) -> Command {
    let mut command = clean_command(host, program);
    command
        .env("CFRAME_CONTROLLER_DATA_DIR", dir)
        .env("CFRAME_CONTROLLER_CONFIG", files.config())
        .env("XDG_CONFIG_HOME", files.operator());
    command
}

impl Deployment {
    /// The first controller's data directory.
    pub fn controller_dir(&self) -> PathBuf {
        self.files.controller()
    }

    /// A copy of the first controller's embedded store, made while the controller is stopped for a moment.
    pub fn copy_store(&mut self) -> Result<PathBuf> {
        let copy = self.controller_dir().with_extension("store-copy");
        self.with_store_at_rest(|store| fs::copy(store, &copy).map(drop))?;
        Ok(copy)
    }

    /// Replaces the first controller's store by an older copy, as somebody does who restores a virtual machine.
    pub fn roll_back_store(&mut self, copy: &Path) -> Result<()> {
        self.with_store_at_rest(|store| fs::copy(copy, store).map(drop))
    }

    fn with_store_at_rest(&mut self, work: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
        let store = self.controller_dir().join("store.redb");
        let controller = self.controller_mut();
        controller.process.terminate(STOP_TIMEOUT)?;
        work(&store).with_context(|| format!("copying {}", store.display()))?;
        // Not until it is ready: with an older store it may never be.
        controller.process.restart()
    }

    /// Starts the first controller again with its data directory on a file system of its own of `kib` KiB. Returns the
    /// directory as this process sees it.
    pub fn restart_controller_on_small_disk(&mut self, kib: u32) -> Result<PathBuf> {
        let dir = self.controller_dir();
        let (shown, copy) = (dir.display(), dir.with_extension("moved"));
        let (copy, program) = (copy.display(), self.programs.controller());
        let script = format!(
            "set -e; cp -a {shown} {copy}; mount -t tmpfs -o size={kib}k,mode=0700 none {shown}; \
             cp -a {copy}/. {shown}; exec {} run",
            program.display()
        );
        let mut run = command(&self.files, &dir, &self.host, "unshare".into());
        run.args(["--mount", "sh", "-c", &script]);
        let controller = &mut self.controllers[0];
        controller.process.terminate(STOP_TIMEOUT)?;
        controller.process = self.host.spawn("controller-on-small-disk", run)?;
        controller.wait_ready()?;
        let root = Path::new("/proc").join(controller.process.pid().to_string()).join("root");
        Ok(root.join(dir.strip_prefix("/").unwrap_or(&dir)))
    }

    /// The operator's file of contexts, for `cfctl --config`.
    pub fn context_file(&self) -> PathBuf {
        self.files.contexts()
    }

    /// `XDG_CONFIG_HOME` of the operator of a mesh whose files are below `dir`.
    pub(crate) fn operator_dir(mesh: &str, dir: &Path) -> PathBuf {
        Files::new(mesh, dir).operator()
    }

    /// Runs another command of `cframe-controller` on the first controller's data directory, such as `ca renew`.
    pub fn controller_program(&self, args: &[&str]) -> Result<Output> {
        let (dir, program) = (self.controller_dir(), self.programs.controller());
        let mut command = command(&self.files, &dir, &self.host, program);
        command.args(args);
        self.transcript.run(&self.host, command, COMMAND_TIMEOUT)
    }
}
