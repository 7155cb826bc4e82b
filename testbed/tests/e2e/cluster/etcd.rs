//! Members of etcd on hosts of the lab, with etcd's own default times.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cframe_testbed::{Host, Lab, Process, PublicHost, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::world::{PATIENCE, output};

/// A member, and its program.
#[derive(Debug)]
pub(crate) struct Member {
    host: Host,
    process: Mutex<Process>,
}

impl Member {
    /// One on each host, of one cluster. They are not waited for.
    pub(crate) fn start_all(lab: &Lab, hosts: &[PublicHost]) -> Vec<Self> {
        let peer = |host: &Host| format!("http://{}:2380", host.address());
        let cluster: Vec<String> =
            hosts.iter().map(|host| format!("{}={}", host.name(), peer(host))).collect();
        let start = |host: &PublicHost| {
            let name = format!("etcd-{}", host.name());
            let mut command = host.command("etcd");
            command.arg("--name").arg(host.name());
            command.arg("--data-dir").arg(lab.path(&name));
            command.args(["--listen-client-urls", &client_url(host)]);
            command.args(["--advertise-client-urls", &client_url(host)]);
            command.args(["--listen-peer-urls", &peer(host)]);
            command.args(["--initial-advertise-peer-urls", &peer(host)]);
            command.args(["--initial-cluster", &cluster.join(",")]);
            let process = host.spawn(&name, command).unwrap_or_else(|error| {
                panic!("{error:#}; as root, apt-get install etcd-server etcd-client")
            });
            Self { host: Host::clone(host), process: Mutex::new(process) }
        };
        hosts.iter().map(start).collect()
    }

    pub(crate) fn endpoint(&self) -> String {
        client_url(&self.host)
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn kill(&self) {
        self.process().kill9().unwrap();
    }

    pub(crate) fn stop(&self) {
        self.process().terminate(PATIENCE).unwrap();
    }

    pub(crate) fn start(&self) {
        self.process().restart().unwrap();
    }

    /// It stands still, and its connections stay.
    pub(crate) fn freeze(&self) {
        self.process().signal(Signal::STOP).unwrap();
    }

    pub(crate) fn thaw(&self) {
        self.process().signal(Signal::CONT).unwrap();
    }

    /// Drops all packets between this member and the others, or no longer. Its clients still reach it.
    pub(crate) fn part(&self, parted: bool) {
        let rule = "tcp dport 2380 drop; tcp sport 2380 drop;";
        let chain = |hook| format!("chain {hook} {{ type filter hook {hook} priority 0; {rule} }}");
        let table = "table inet parted";
        let made = format!("{table} {{\n{}\n{}\n}}", chain("input"), chain("output"));
        let ruleset = format!("{table}\ndelete {table}\n{}\n", if parted { &made } else { "" });
        self.host.netns().nft(&ruleset).unwrap();
    }

    /// `etcdctl ARGS`, with this member.
    pub(crate) fn etcdctl(&self, args: &[&str]) -> Command {
        let mut command = self.host.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint()]);
        command.args(["--dial-timeout", "300ms", "--command-timeout", "500ms"]).args(args);
        command
    }

    fn status(&self) -> Option<Value> {
        let output = self.etcdctl(&["endpoint", "status", "-w", "json"]).output().unwrap();
        let mut rows: Vec<Value> = serde_json::from_slice(&output.stdout).ok()?;
        Some(rows.pop()?["Status"].take())
    }

    /// The id of the leader that it knows.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.status()?["leader"].as_u64().filter(|id| *id != 0)
    }

    /// Whether it is the leader.
    pub(crate) fn leads(&self) -> bool {
        self.leader().is_some_and(|leader| leader == self.id())
    }

    /// Its own id.
    pub(crate) fn id(&self) -> u64 {
        self.status().unwrap()["header"]["member_id"].as_u64().unwrap()
    }

    /// Has this member, which leads, give the lead to another.
    pub(crate) fn hand_over(&self, to: &Self) {
        let id = format!("{:x}", to.id());
        let args = ["move-leader", &id, "--command-timeout", "5s"];
        let moved = self.etcdctl(&args).output().unwrap();
        assert!(moved.status.success(), "{moved:?}");
    }

    /// The store's revision.
    pub(crate) fn revision(&self) -> u64 {
        self.status().unwrap()["header"]["revision"].as_u64().unwrap()
    }

    /// Waits until it takes writes.
    pub(crate) fn wait_healthy(&self) -> Duration {
        let healthy = || self.etcdctl(&["endpoint", "health"]).output().unwrap().status.success();
        wait_until(PATIENCE, healthy)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.process().log_tail(20)))
    }

    /// How many watches it serves.
    pub(crate) fn watches(&self) -> u64 {
        let mut command = self.host.command("curl");
        command.args(["-sS", &format!("{}/metrics", self.endpoint())]);
        let metrics = output(command);
        let gauge = metrics.lines().find_map(|line| {
            line.strip_prefix("etcd_debugging_mvcc_watcher_total ")?.trim().parse().ok()
        });
        gauge.unwrap_or_else(|| panic!("no number of watches in {metrics}"))
    }
}

fn client_url(host: &Host) -> String {
    format!("http://{}:2379", host.address())
}
