//! Faults of members of etcd.

use std::process::Command;
use std::time::Duration;

use cframe_testbed::etcd::EtcdMember;
use cframe_testbed::{Host, Lab, PublicHost};
use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{TIMEOUT, output};

#[derive(Debug)]
pub(crate) struct Member {
    host: Host,
    etcd: EtcdMember,
}

impl Member {
    /// Starts a cluster with a member on each host, without waiting for it.
    pub(crate) fn start_all(lab: &Lab, hosts: &[PublicHost]) -> Vec<Self> {
        let hosts: Vec<&Host> = hosts.iter().map(|host| &**host).collect();
        let members = EtcdMember::cluster(&hosts, lab.dir()).unwrap();
        let pairs = hosts.into_iter().cloned().zip(members);
        pairs.map(|(host, etcd)| Self { host, etcd }).collect()
    }

    pub(crate) fn endpoint(&self) -> &str {
        self.etcd.endpoint()
    }

    pub(crate) fn kill(&self) {
        self.etcd.process().kill9().unwrap();
    }

    pub(crate) fn stop(&self) {
        self.etcd.process().terminate(TIMEOUT).unwrap();
    }

    pub(crate) fn start(&self) {
        self.etcd.process().restart().unwrap();
    }

    /// Stops its process with SIGSTOP; its connections stay open.
    pub(crate) fn freeze(&self) {
        self.etcd.process().signal(Signal::STOP).unwrap();
    }

    pub(crate) fn thaw(&self) {
        self.etcd.process().signal(Signal::CONT).unwrap();
    }

    /// Drops all packets between this member and the others, but not those of its clients.
    pub(crate) fn cut_from_peers(&self, cut: bool) {
        let rule = "tcp dport 2380 drop; tcp sport 2380 drop;";
        let chain = |hook| format!("chain {hook} {{ type filter hook {hook} priority 0; {rule} }}");
        let table = "table inet parted";
        let definition = format!("{table} {{\n{}\n{}\n}}", chain("input"), chain("output"));
        let ruleset = format!("{table}\ndelete {table}\n{}\n", if cut { &definition } else { "" });
        self.host.netns().nft(&ruleset).unwrap();
    }

    pub(crate) fn etcdctl(&self, args: &[&str]) -> Command {
        self.etcd.etcdctl(args)
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

    pub(crate) fn is_leader(&self) -> bool {
        self.leader().is_some_and(|leader| leader == self.id())
    }

    pub(crate) fn id(&self) -> u64 {
        self.status().unwrap()["header"]["member_id"].as_u64().unwrap()
    }

    /// Transfers the leadership from this member to another.
    pub(crate) fn transfer_leadership(&self, to: &Self) {
        let id = format!("{:x}", to.id());
        let args = ["move-leader", &id, "--command-timeout", "5s"];
        let output = self.etcdctl(&args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// The store's revision.
    pub(crate) fn revision(&self) -> u64 {
        self.status().unwrap()["header"]["revision"].as_u64().unwrap()
    }

    /// Waits until it accepts writes.
    pub(crate) fn wait_healthy(&self) -> Duration {
        self.etcd.wait_healthy(TIMEOUT).unwrap_or_else(|error| panic!("{error:#}"))
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
