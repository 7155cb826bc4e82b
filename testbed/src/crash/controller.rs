//! A controller on the loopback, in a directory of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use cframe_protocol::session::{AdminConnection, Client};
use cframe_protocol::v1::Call;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::admin::admin_client;
use crate::deployment::http_get;
use crate::process::Process;
use crate::programs::Programs;

const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(1);

pub(super) struct LoopbackController {
    process: Option<Process>,
    /// The command of the first start.
    run: Option<Command>,
    http: SocketAddr,
    admin: Client,
    // The last field: it is removed after the process has been killed.
    directory: TempDir,
}

impl LoopbackController {
    /// Creates a mesh, without starting the controller.
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
        let output = init.output().context("cframe-controller init")?;
        ensure!(output.status.success(), "init: {}", String::from_utf8_lossy(&output.stderr));
        let mut run = command("run");
        run.args(["--control-listen", &control.to_string()])
            .args(["--enroll-listen", &enroll.to_string()])
            .args(["--metrics-listen", &http.to_string()])
            // All records are verified, however many there are.
            .args(["--audit-records", "10000000"]);
        let admin = admin_client(&path("admin.toml"))?;
        Ok(Self { process: None, run: Some(run), http, admin, directory })
    }

    /// Starts the controller without waiting for it.
    pub(super) fn spawn(&mut self) -> Result<()> {
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

    /// Starts the controller, and waits for its first answer to an admin; returns the time since the start.
    pub(super) async fn start(&mut self) -> Result<(AdminConnection, Duration)> {
        self.spawn()?;
        let process = self.process.as_mut().context("it was just started")?;
        let start = Instant::now();
        while !matches!(http_get(self.http, "/readyz"), Ok((200, _))) {
            let running = process.is_running();
            ensure!(running, "the controller has ended:\n{}", process.log_tail(20));
            ensure!(start.elapsed() < TIMEOUT, "it is not ready:\n{}", process.log_tail(20));
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let connected = timeout(TIMEOUT, async {
            let admin = AdminConnection::connect(&self.admin).await?;
            admin.call(Call::Version, false).await?.collect().await?;
            anyhow::Ok(admin)
        });
        let admin = connected.await.context("no answer to an admin")??;
        Ok((admin, process.started().elapsed()))
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.process.as_mut().context("the controller does not run")?.kill9()
    }

    /// The end of its log.
    pub(super) fn log(&self) -> String {
        self.process.as_ref().map(|process| process.log_tail(20)).unwrap_or_default()
    }
}

fn free_udp() -> Result<SocketAddr> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn free_tcp() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
