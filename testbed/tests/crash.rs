//! A controller that is killed under writes, on either store. Needs the release programs and etcd, and no privileges.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cframe_testbed::crash::{Options, Report, SERVING, run};
use tempfile::TempDir;

#[test]
fn of_25_kills_under_writes_none_loses_or_tears_a_change() {
    let report = kill(25, &[]);
    assert!(report.acknowledged() > 100, "{report}");
}

#[test]
fn of_10_kills_under_writes_to_etcd_none_loses_or_tears_a_change() {
    let etcd = Etcd::start();
    let report = kill(10, &["--store", "etcd", "--etcd-endpoint", &etcd.endpoint]);
    assert!(report.acknowledged() > 40, "{report}");
    assert!(etcd.keys() > 40, "it is not what was written to");
}

fn kill(kills: u32, flags: &[&str]) -> Report {
    let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    let report = run(&Options { kills, seed: None, flags }).unwrap();
    println!("{report}");
    assert!(report.starts()[2] < SERVING, "{report}");
    report
}

/// One member on the loopback, which ends with the test.
struct Etcd {
    endpoint: String,
    member: Child,
    directory: TempDir,
}

impl Etcd {
    const PATIENCE: Duration = Duration::from_secs(20);

    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("cf.crash-etcd.").tempdir().unwrap();
        let [endpoint, peer] = [(); 2].map(|()| format!("http://{}", free()));
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        // The kernel ends it if this thread's process is killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "etcd", "--name", "m0", "--data-dir"])
            .arg(directory.path().join("data"))
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m0={peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let member = command.spawn().unwrap();
        let etcd = Self { endpoint, member, directory };
        let begun = Instant::now();
        while !etcd.ctl(&["endpoint", "health"]).0 {
            let log = || std::fs::read_to_string(etcd.directory.path().join("log")).unwrap();
            assert!(begun.elapsed() < Self::PATIENCE, "etcd does not come up: {}", log());
        }
        etcd
    }

    fn keys(&self) -> usize {
        let (done, keys) = self.ctl(&["get", "--prefix", "/cframe/", "--keys-only"]);
        assert!(done);
        keys.lines().filter(|line| line.starts_with("/cframe/")).count()
    }

    /// Whether etcdctl succeeds, and what it says.
    fn ctl(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint]).args(arguments);
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.member.kill();
        let _ = self.member.wait();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
