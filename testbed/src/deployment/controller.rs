//! The controller's program: its files, its start, its local HTTP port.

use std::fs::{self, DirBuilder};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::prompt::as_typed;
use super::{COMMAND, Deployment, Transcript, clean_command};
use crate::{Host, Process};

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

/// `cframe-controller init`.
pub(super) fn init(
    mesh: &str,
    files: &Files,
    host: &Host,
    program: PathBuf,
    transcript: Transcript,
) -> Result<()> {
    fs::write(files.config(), "").context("writing the controller's configuration")?;
    let mut command = command(files, host, program);
    command.args(["init", "--mesh", mesh]);
    for address in host.addresses() {
        command.args(["--address", &address.addr().to_string()]);
    }
    transcript.run(host, command, COMMAND)?.success()?;
    Ok(())
}

/// `cframe-controller run`.
pub(super) fn spawn(
    mesh: &str,
    files: &Files,
    host: &Host,
    program: PathBuf,
    transcript: Transcript,
) -> Result<Process> {
    let mut command = command(files, host, program);
    command.arg("run");
    transcript.typed(host, &format!("{} &", as_typed(&command)));
    host.spawn(&format!("{mesh}-controller"), command)
}

fn command(files: &Files, host: &Host, program: PathBuf) -> Command {
    let mut command = clean_command(host, program);
    command
        .env("CFRAME_DATA_DIR", files.controller())
        .env("CFRAME_CONFIG", files.config())
        .env("XDG_CONFIG_HOME", files.operator());
    command
}

impl Deployment {
    /// The controller's data directory.
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

    /// What the controller's local HTTP port answers to `GET path`: status code and body.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        self.host.enter(|| ask(path))?.with_context(|| format!("asking http://{HTTP}{path}"))
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
