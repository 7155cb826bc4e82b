//! Deployments that many tests start, and how tests print what they measure.

use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::Result;
use cframe_testbed::deployment::{Deployment, Edge, Transcript};
use cframe_testbed::{Host, Lab, Nat, Pinger, Site, ThreeSites, privilege, wait_until};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
/// The endpoints of the edges of the three sites.
pub(crate) const SZ: &str = "192.0.2.7:58423";
pub(crate) const HK: &str = "203.0.113.7:58423";
pub(crate) const IDC: &str = "198.18.0.7:58423";

/// Held for writing by tests that must not run beside others.
static MACHINE: RwLock<()> = RwLock::new(());

/// A test's use of the machine, until it is dropped.
#[derive(Debug)]
pub(crate) enum Share {
    Shared(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

/// For a test that may run beside others.
pub(crate) fn shared() -> Share {
    Share::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner))
}

/// For a test that must run alone; it belongs in the module `alone`.
pub(crate) fn alone() -> Share {
    Share::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner))
}

/// Prints a figure for passing tests too: the test harness hides what `println!` writes in them.
pub(crate) fn figure(what: &str, value: impl Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "figure: {what}: {value}").unwrap();
}

/// Prints a time, and checks it against its bound.
pub(crate) fn within(what: &str, took: Duration, bound: Duration) {
    figure(what, format_args!("{took:.1?} (bound {bound:?})"));
    assert!(took <= bound, "{what}: {took:?} > {bound:?}");
}

/// A controller and three sites without edges. The fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct TestLab {
    pub(crate) deployment: Deployment,
    pub(crate) sites: ThreeSites,
    pub(crate) net: Lab,
    _share: Share,
}

impl TestLab {
    pub(crate) fn start(name: &str, share: Share) -> Self {
        Self::with(name, "lab", None, share)
    }

    /// With another name of the mesh, or with a NAT in front of `aliyun-sz`.
    pub(crate) fn with(name: &str, mesh: &str, nat: Option<Nat>, share: Share) -> Self {
        privilege::ensure().unwrap();
        let mut net = Lab::new(name).unwrap();
        let sites = ThreeSites::build(&mut net, nat).unwrap();
        Self::on(net, sites, mesh, share)
    }

    /// With sites that were built otherwise.
    pub(crate) fn on(net: Lab, sites: ThreeSites, mesh: &str, share: Share) -> Self {
        let transcript = Transcript::default();
        let deployment =
            Deployment::start_mesh(mesh, net.dir(), &sites.controller, transcript).unwrap();
        deployment.ctl_ok(&["namespace", "add", "prod"]).unwrap();
        Self { deployment, sites, net, _share: share }
    }

    /// Starts an edge in `prod` with these endpoints.
    pub(crate) fn edge(&self, site: &Site, endpoints: &[&str]) -> Edge {
        self.deployment.edge(site).endpoints(endpoints).enrol().unwrap()
    }
}

/// The edges of all three sites in namespace `prod`, linked and in sync.
#[derive(Debug)]
pub(crate) struct DeployedEdges {
    pub(crate) sz: Edge,
    pub(crate) hk: Edge,
    pub(crate) idc: Edge,
    pub(crate) lab: TestLab,
}

impl DeployedEdges {
    pub(crate) fn start(name: &str, share: Share) -> Self {
        let lab = TestLab::start(name, share);
        let sz = lab.edge(&lab.sites.aliyun_sz, &[SZ]);
        let hk = lab.edge(&lab.sites.aws_hk, &[HK]);
        let idc = lab.edge(&lab.sites.idc, &[IDC]);
        let mut edges = Self { sz, hk, idc, lab };
        for edge in edges.all() {
            edge.wait_links(2).unwrap();
            edge.wait_synced().unwrap();
        }
        edges
    }

    pub(crate) fn all(&mut self) -> [&mut Edge; 3] {
        [&mut self.sz, &mut self.hk, &mut self.idc]
    }
}

/// The edges of `aliyun-sz` and `aws-hk`, linked and in sync. The dialer has no endpoint.
#[derive(Debug)]
pub(crate) struct DeployedPair {
    pub(crate) dialer: Edge,
    pub(crate) acceptor: Edge,
    pub(crate) lab: TestLab,
}

impl DeployedPair {
    pub(crate) fn start(name: &str, share: Share) -> Self {
        Self::start_in(TestLab::start(name, share))
    }

    pub(crate) fn behind_nat(name: &str, nat: Nat, share: Share) -> Self {
        Self::start_in(TestLab::with(name, "lab", Some(nat), share))
    }

    fn start_in(lab: TestLab) -> Self {
        let dialer = lab.edge(&lab.sites.aliyun_sz, &[]);
        let acceptor = lab.edge(&lab.sites.aws_hk, &[HK]);
        let mut pair = Self { dialer, acceptor, lab };
        for edge in [&mut pair.dialer, &mut pair.acceptor] {
            edge.wait_links(1).unwrap();
            edge.wait_synced().unwrap();
        }
        pair
    }

    /// Steady pings from the dialer's workload to the acceptor's.
    pub(crate) fn ping(&self, interval: Duration) -> Pinger {
        ping(&self.dialer, &self.acceptor, interval)
    }
}

/// Pings from one edge's workload to another's; returns when they are answered.
pub(crate) fn ping(from: &Edge, to: &Edge, interval: Duration) -> Pinger {
    let to = to.site().workload().address();
    let pinger = start_pings(from.site().workload(), to, interval);
    pinger.steady(20, TIMEOUT).unwrap();
    pinger
}

/// Starts pings, which may not be answered yet.
pub(crate) fn start_pings(from: &Host, to: impl Into<IpAddr>, interval: Duration) -> Pinger {
    from.ping(to).interval(interval).start().unwrap()
}

/// Stops pings, prints how many were lost, and checks that none was.
pub(crate) fn none_lost(what: &str, pingers: Vec<Pinger>) {
    let (mut sent, mut lost) = (0, 0);
    for pinger in pingers {
        let stats = pinger.stop();
        (sent, lost) = (sent + stats.sent, lost + stats.lost.len());
    }
    figure(what, format_args!("{lost} of {sent} (bound 0)"));
    assert_eq!(lost, 0);
}

/// Waits for a condition whose check starts a process, such as an edge's status. It is checked every 20 ms, to leave the
/// processors to the test beside this one.
pub(crate) fn wait_for(timeout: Duration, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let mut is_first = true;
    wait_until(timeout, || {
        if !std::mem::take(&mut is_first) {
            std::thread::sleep(20 * MS);
        }
        condition()
    })
}

/// The standard output of a command that must succeed.
pub(crate) fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The output of `ip ARGS` on a host.
pub(crate) fn ip(host: &Host, args: &[&str]) -> String {
    let mut command = host.command("ip");
    command.args(args);
    output(command)
}

/// Whether an edge's status shows its link to `peer` as up.
pub(crate) fn linked(edge: &Edge, peer: &str) -> bool {
    let status = edge.status().unwrap();
    let links = status["links"].as_array().unwrap().clone();
    links.iter().any(|link| link["peer"] == peer && link["up"] == true)
}

pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
