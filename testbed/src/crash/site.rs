//! A controller on the loopback, in a directory of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cframe_controller::cli::Contexts;
use cframe_pki::CertificateDer;
use cframe_pki::bundle::{DenyList, TrustBundle};
use cframe_pki::key::PrivateKey;
use cframe_pki::tls::{self, Credentials, LiveCredentials};
use cframe_pki::verifier::{PeerVerifier, Policy, Trust};
use cframe_protocol::session::{AdminConnection, Client};
use cframe_protocol::v1::Call;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{Process, Programs};

/// When waiting is given up.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(1);

pub(super) struct Site {
    process: Option<Process>,
    run: Option<Command>,
    http: SocketAddr,
    admin: Client,
    // Removed after the process has been killed.
    directory: TempDir,
}

impl Site {
    /// Makes a mesh. Nothing runs yet.
    pub(super) fn init(flags: &[String]) -> Result<Self> {
        let programs = Programs::locate()?;
        let directory = tempfile::Builder::new().prefix("cf.crash.").tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let control = free_udp()?;
        let (enroll, http) = (free_udp()?, free_tcp()?);
        std::fs::write(path("controller.toml"), "")?;
        let command = |verb: &str| {
            let mut command = Command::new(programs.controller());
            for (name, _) in std::env::vars_os() {
                if name.as_encoded_bytes().starts_with(b"CFRAME_CONTROLLER_") {
                    command.env_remove(name);
                }
            }
            command
                .arg(verb)
                .args(flags)
                .arg("--data-dir")
                .arg(path("data"))
                .arg("--config")
                .arg(path("controller.toml"))
                .env("NO_COLOR", "1")
                .env("RUST_LOG", "warn");
            command
        };
        let mut init = command("init");
        init.args(["--mesh", "crash.test", "--address", &control.to_string()]);
        init.arg("--admin-context").arg(path("admin.toml"));
        let made = init.output().context("cframe-controller init")?;
        ensure!(made.status.success(), "init: {}", String::from_utf8_lossy(&made.stderr));
        let mut run = command("run");
        run.args(["--control-listen", &control.to_string()])
            .args(["--enroll-listen", &enroll.to_string()])
            .args(["--metrics-listen", &http.to_string()])
            // Each record is looked at, however many there are.
            .args(["--audit-records", "10000000"]);
        let admin = client(&path("admin.toml"))?;
        Ok(Self { process: None, run: Some(run), http, admin, directory })
    }

    /// Starts the controller, and nothing more.
    pub(super) fn begin(&mut self) -> Result<()> {
        match (&mut self.process, self.run.take()) {
            (None, Some(run)) => {
                let logs = self.directory.path();
                self.process = Some(Process::start("crash-controller", run, logs, false)?);
            }
            (Some(process), _) => process.restart()?,
            (None, None) => return Err(anyhow!("the controller could not be started before")),
        }
        Ok(())
    }

    /// Starts the controller, and waits until it has answered an admin: how long that took.
    pub(super) async fn start(&mut self) -> Result<(AdminConnection, Duration)> {
        self.begin()?;
        let process = self.process.as_mut().context("it was just started")?;
        let begun = Instant::now();
        while !is_ready(self.http) {
            let running = process.is_running();
            ensure!(running, "the controller has ended:\n{}", process.log_tail(20));
            ensure!(begun.elapsed() < PATIENCE, "it is not ready:\n{}", process.log_tail(20));
            tokio::time::sleep(POLL).await;
        }
        let answered = timeout(PATIENCE, async {
            let admin = AdminConnection::connect(&self.admin).await?;
            admin.call(Call::Version, false).await?.collect().await?;
            anyhow::Ok(admin)
        });
        let admin = answered.await.context("no answer")??;
        Ok((admin, process.started().elapsed()))
    }

    /// Kills it with SIGKILL.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.process.as_mut().context("nothing runs")?.kill9()
    }

    /// The end of its log.
    pub(super) fn log(&self) -> String {
        self.process.as_ref().map(|process| process.log_tail(20)).unwrap_or_default()
    }
}

fn is_ready(http: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&http, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

/// The first admin.
fn client(contexts: &Path) -> Result<Client> {
    let contexts = Contexts::load(contexts)?;
    let context = contexts.contexts.values().next().context("no context")?;
    let certificates =
        |text: &str| CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let credentials = Credentials {
        chain: certificates(&context.certificate)?,
        key: PrivateKey::from_pem(context.key.as_bytes())?,
    };
    let bundle = TrustBundle { roots: certificates(&context.trust)?, ..TrustBundle::default() };
    let trust = Trust::new(credentials.identity()?.id.mesh, bundle, DenyList::default())?;
    let verifier = PeerVerifier::new(trust, Policy::Controller);
    let tls = tls::control_client(&LiveCredentials::new(credentials)?, verifier);
    let addresses: Result<Vec<_>, _> =
        context.controllers.iter().map(|address| address.parse()).collect();
    Ok(Client::new(addresses?, Arc::new(tls)))
}

fn free_udp() -> Result<SocketAddr> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn free_tcp() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
