//! The controllers' program: its files, its start, its local HTTP port.

use std::fs::{self, DirBuilder};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::prompt::as_typed;
use super::{COMMAND, Deployment, Output, Transcript, clean_command};
use crate::{Host, Process, wait_until};

/// The default of `--metrics-listen`.
const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// The files of a deployment, below its directory.
#[derive(Clone, Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn of(mesh: &str, dir: &Path) -> Self {
        Self(dir.join(format!("mesh-{mesh}")))
    }

    /// Makes their directory, which must not be there.
    pub(super) fn make(&self) -> Result<()> {
        let dir = self.0.display();
        DirBuilder::new()
            .mode(0o700)
            .create(&self.0)
            .with_context(|| format!("making {dir}: is there a mesh of that name already?"))
    }

    /// The same for one that may be there.
    pub(super) fn make_if_absent(&self) -> Result<()> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&self.0);
        made.with_context(|| format!("making {}", self.0.display()))
    }

    pub(super) fn controller(&self) -> PathBuf {
        self.0.join("controller")
    }

    /// The data directory of one that has joined.
    fn joined(&self, name: &str) -> PathBuf {
        self.0.join(format!("controller-{name}"))
    }

    /// Where the operator's programs look for their files.
    pub(super) fn operator(&self) -> PathBuf {
        self.0.join("operator")
    }

    pub(super) fn contexts(&self) -> PathBuf {
        self.operator().join("cframe/config.toml")
    }

    pub(super) fn edge(&self, namespace: &str, name: &str) -> PathBuf {
        self.0.join(format!("edge-{namespace}-{name}"))
    }

    /// Stands for `/etc/cframe/controller.toml`, which may be there for a controller of this machine.
    fn config(&self) -> PathBuf {
        self.0.join("controller.toml")
    }
}

/// A running controller. Dropping it kills it.
#[derive(Debug)]
pub struct Controller {
    name: String,
    host: Host,
    dir: PathBuf,
    transcript: Transcript,
    process: Process,
}

impl Controller {
    /// Its name in the mesh.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The program, with its log and memory.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The program, to signal and wait for.
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
        self.process.terminate(Duration::from_secs(5))?;
        self.start()
    }

    /// Waits until its `/readyz` says yes.
    pub fn wait_ready(&mut self) -> Result<()> {
        let patience = Duration::from_secs(10);
        let mut ended = false;
        let waited = wait_until(patience, || {
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

    /// What its local HTTP port answers to `GET path`: status code and body.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        self.host.enter(|| ask(path))?.with_context(|| format!("asking http://{HTTP}{path}"))
    }
}

/// How a controller comes into being.
pub(super) enum Origin<'a> {
    /// As the first of a mesh of this name, with this for its configuration file.
    Mesh(&'a str, &'a str),
    /// It is there, of an earlier run.
    Made,
    /// As one more, by this name, signed by the root of the first.
    Join(&'a str),
}

/// Makes a controller and starts it.
pub(super) fn make(
    origin: &Origin<'_>,
    mesh: &str,
    files: &Files,
    host: &Host,
    program: &Path,
    transcript: Transcript,
) -> Result<Controller> {
    let (name, dir) = match origin {
        Origin::Mesh(..) | Origin::Made => ("controller", files.controller()),
        Origin::Join(name) => (*name, files.joined(name)),
    };
    let command = || command(files, &dir, host, program.to_owned());
    if !matches!(origin, Origin::Made) {
        let mut init = command();
        init.arg("init");
        match origin {
            Origin::Mesh(mesh, config) => {
                fs::write(files.config(), config)
                    .context("writing the controller's configuration")?;
                init.args(["--mesh", mesh]);
            }
            Origin::Join(name) => {
                init.args(["--join", "--name", name, "--root"]).arg(files.controller().join("ca"));
            }
            Origin::Made => {}
        }
        for address in host.addresses() {
            init.args(["--address", &address.addr().to_string()]);
        }
        transcript.run(host, init, COMMAND)?.success()?;
    }
    let mut run = command();
    run.arg("run");
    transcript.typed(host, &format!("{} &", as_typed(&run)));
    let process = host.spawn(&format!("{mesh}-{name}"), run)?;
    let (name, host) = (name.to_owned(), host.clone());
    let mut controller = Controller { name, host, dir, transcript, process };
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

    /// The operator's file of contexts, for `cfctl --config`.
    pub fn context_file(&self) -> PathBuf {
        self.files.contexts()
    }

    /// `XDG_CONFIG_HOME` of the operator of a mesh whose directory is below `dir`.
    pub(crate) fn operator_dir(mesh: &str, dir: &Path) -> PathBuf {
        Files::of(mesh, dir).operator()
    }

    /// Runs another command of `cframe-controller` on the first controller's directory, such as `ca renew`.
    pub fn controller_program(&self, args: &[&str]) -> Result<Output> {
        let (dir, program) = (self.controller_dir(), self.programs.controller());
        let mut command = command(&self.files, &dir, &self.host, program);
        command.args(args);
        self.transcript.run(&self.host, command, COMMAND)
    }

    /// What the first controller's local HTTP port answers to `GET path`: status code and body.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        self.controllers[0].http(path)
    }
}

fn ask(path: &str) -> Result<(u16, String)> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&HTTP, patience).context("connecting")?;
    stream.set_read_timeout(Some(patience)).context("setting a timeout")?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {HTTP}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the answer")?;
    parse(&answer).with_context(|| format!("not an answer of HTTP/1.1: {answer:?}"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_code_and_its_body() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nfull\n";
        assert_eq!(parse(answer), Some((503, "full\n".to_owned())));
        assert_eq!(parse("HTTP/1.1 200 OK\r\n"), None);
    }
}
