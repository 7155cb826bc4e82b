//! Members of etcd with etcd's default timings.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::process::Process;
use crate::wait::wait_until;

/// A running member. Dropping it kills it.
#[derive(Debug)]
pub struct EtcdMember {
    host: Option<Host>,
    endpoint: String,
    process: Mutex<Process>,
}

impl EtcdMember {
    /// Starts a cluster of one, with its data and log in `dir`, on free ports of this machine's loopback.
    pub fn on_loopback(dir: &Path) -> Result<Self> {
        let free_url = || -> Result<String> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            Ok(format!("http://{}", listener.local_addr()?))
        };
        let (client, peer) = (free_url()?, free_url()?);
        // The kernel ends it if this process is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "etcd"]);
        let cluster = format!("etcd={peer}");
        add_flags(&mut command, "etcd", &dir.join("data"), [&client, &peer], &cluster);
        let process = Process::start("etcd", command, dir, false)?;
        Self { host: None, endpoint: client, process: Mutex::new(process) }.once_healthy()
    }

    /// Starts a cluster of one on the loopback of `host`, with its data in `dir`.
    pub fn on_host(host: &Host, dir: &Path) -> Result<Self> {
        let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
        Self::spawn(host, "etcd", dir, [client, peer], &format!("etcd={peer}"))?.once_healthy()
    }

    /// Starts a cluster with a member on each host, with their data below `dir`, and does not wait for it.
    pub fn cluster(hosts: &[&Host], dir: &Path) -> Result<Vec<Self>> {
        let url = |host: &Host, port| format!("http://{}:{port}", host.address());
        let cluster: Vec<String> =
            hosts.iter().map(|host| format!("{}={}", host.name(), url(host, 2380))).collect();
        let cluster = cluster.join(",");
        let start = |host: &&Host| {
            let data = dir.join(format!("etcd-{}", host.name()));
            let urls = [&*url(host, 2379), &*url(host, 2380)];
            Self::spawn(host, host.name(), &data, urls, &cluster)
        };
        hosts.iter().map(start).collect()
    }

    fn spawn(host: &Host, name: &str, data: &Path, urls: [&str; 2], cluster: &str) -> Result<Self> {
        let mut command = host.command("etcd");
        add_flags(&mut command, name, data, urls, cluster);
        let process = host.spawn(&format!("etcd-{name}"), command);
        let process = process.context("as root, apt-get install etcd-server etcd-client")?;
        let (host, endpoint) = (Some(host.clone()), urls[0].to_owned());
        Ok(Self { host, endpoint, process: Mutex::new(process) })
    }

    fn once_healthy(self) -> Result<Self> {
        self.wait_healthy(Duration::from_secs(20))?;
        Ok(self)
    }

    /// The URL for clients.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it accepts writes; returns how long that took.
    pub fn wait_healthy(&self, timeout: Duration) -> Result<Duration> {
        let healthy = || {
            let output = self.etcdctl(&["endpoint", "health"]).output();
            output.is_ok_and(|output| output.status.success())
        };
        wait_until(timeout, healthy)
            .with_context(|| format!("etcd is not healthy:\n{}", self.process().log_tail(20)))
    }

    /// `etcdctl` with this member as its only endpoint, and with short time-outs.
    pub fn etcdctl(&self, args: &[&str]) -> Command {
        let program = "etcdctl";
        let mut command = match &self.host {
            Some(host) => host.command(program),
            None => Command::new(program),
        };
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint]);
        command.args(["--dial-timeout", "300ms", "--command-timeout", "500ms"]).args(args);
        command
    }
}

fn add_flags(
    command: &mut Command,
    name: &str,
    data: &Path,
    [client, peer]: [&str; 2],
    cluster: &str,
) {
    command
        .args(["--name", name, "--data-dir"])
        .arg(data)
        .args(["--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", cluster]);
}
