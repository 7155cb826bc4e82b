//! Deployments that tests share the making of, and how figures are told.

use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use cframe_testbed::deployment::{Deployment, Edge, Transcript};
use cframe_testbed::{Host, Lab, Nat, Pinger, PublicHost, Site, ThreeSites, privilege};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
/// Where the underlay of the three sites is dialled.
pub(crate) const SZ: &str = "192.0.2.7:58423";
pub(crate) const HK: &str = "203.0.113.7:58423";
pub(crate) const IDC: &str = "198.18.0.7:58423";

/// Tests that load the machine, or can't bear it loaded, run while no other does.
static MACHINE: RwLock<()> = RwLock::new(());

#[derive(Debug)]
pub(crate) enum Share {
    Some(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    All(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

/// Together with other tests.
pub(crate) fn shared() -> Share {
    Share::Some(MACHINE.read().unwrap_or_else(PoisonError::into_inner))
}

/// While no other test runs.
pub(crate) fn alone() -> Share {
    Share::All(MACHINE.write().unwrap_or_else(PoisonError::into_inner))
}

/// Prints a figure past the test harness, which shows what passing tests print to nobody.
pub(crate) fn figure(what: &str, value: impl Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "figure: {what}: {value}").unwrap();
}

/// Prints a time, and checks it against its bound.
pub(crate) fn within(what: &str, took: Duration, bound: Duration) {
    figure(what, format_args!("{took:.1?} (bound {bound:?})"));
    assert!(took <= bound, "{what}: {took:?} > {bound:?}");
}

/// A controller and the three sites, with no edge yet. The fields go in this order.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) deployment: Deployment,
    pub(crate) three: ThreeSites,
    pub(crate) lab: Lab,
    _share: Share,
}

impl Mesh {
    pub(crate) fn start(name: &str, share: Share) -> Self {
        Self::named("lab", name, None, share)
    }

    /// With a mesh of another name, and a NAT in front of `aliyun-sz`.
    pub(crate) fn named(mesh: &str, name: &str, nat: Option<Nat>, share: Share) -> Self {
        privilege::ensure().unwrap();
        let mut lab = Lab::new(name).unwrap();
        let three = ThreeSites::build(&mut lab, nat).unwrap();
        let transcript = Transcript::default();
        let deployment =
            Deployment::start_mesh(mesh, lab.dir(), &three.controller, transcript).unwrap();
        deployment.ctl_ok(&["namespace", "add", "prod"]).unwrap();
        Self { deployment, three, lab, _share: share }
    }

    /// An edge in `prod` with these endpoints.
    pub(crate) fn edge(&self, site: &Site, endpoints: &[&str]) -> Edge {
        self.deployment.edge(site).endpoints(endpoints).enrol().unwrap()
    }
}

/// All three edges in namespace `prod`, linked and in sync.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) sz: Edge,
    pub(crate) hk: Edge,
    pub(crate) idc: Edge,
    pub(crate) mesh: Mesh,
}

impl World {
    pub(crate) fn start(name: &str, share: Share) -> Self {
        let mesh = Mesh::start(name, share);
        let sz = mesh.edge(&mesh.three.aliyun_sz, &[SZ]);
        let hk = mesh.edge(&mesh.three.aws_hk, &[HK]);
        let idc = mesh.edge(&mesh.three.idc, &[IDC]);
        let mut world = Self { sz, hk, idc, mesh };
        for edge in world.edges() {
            edge.wait_links(2).unwrap();
            edge.wait_synced().unwrap();
        }
        world
    }

    pub(crate) fn edges(&mut self) -> [&mut Edge; 3] {
        [&mut self.sz, &mut self.hk, &mut self.idc]
    }
}

/// Two edges, of which `dialer` has no endpoint.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) dialer: Edge,
    pub(crate) acceptor: Edge,
    pub(crate) mesh: Mesh,
}

impl Pair {
    pub(crate) fn start(name: &str, share: Share) -> Self {
        Self::of(Mesh::start(name, share))
    }

    pub(crate) fn of(mesh: Mesh) -> Self {
        let dialer = mesh.edge(&mesh.three.aliyun_sz, &[]);
        let acceptor = mesh.edge(&mesh.three.aws_hk, &[HK]);
        let mut pair = Self { dialer, acceptor, mesh };
        for edge in [&mut pair.dialer, &mut pair.acceptor] {
            edge.wait_links(1).unwrap();
            edge.wait_synced().unwrap();
        }
        pair
    }

    /// Pings from the dialer's workload to the acceptor's.
    pub(crate) fn ping(&self, every: Duration) -> Pinger {
        ping(&self.dialer, &self.acceptor, every)
    }
}

/// Steady pings from one edge's workload to another's.
pub(crate) fn ping(from: &Edge, to: &Edge, every: Duration) -> Pinger {
    let pinger = pinging(from.site().workload(), to.site().workload().address(), every);
    pinger.steady(20, PATIENCE).unwrap();
    pinger
}

/// Pings that may have no answer yet.
pub(crate) fn pinging(from: &Host, to: impl Into<IpAddr>, every: Duration) -> Pinger {
    from.ping(to).interval(every).start().unwrap()
}

/// What a program of the system prints.
pub(crate) fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `ip ARGS` on a host.
pub(crate) fn ip(host: &Host, args: &[&str]) -> String {
    let mut command = host.command("ip");
    command.args(args);
    output(command)
}

/// The public host of the controller.
pub(crate) fn controller_host(mesh: &Mesh) -> &PublicHost {
    &mesh.three.controller
}

/// Whether an edge's status has its link to `peer` up.
pub(crate) fn linked(edge: &Edge, peer: &str) -> bool {
    let status = edge.status().unwrap();
    let links = status["links"].as_array().unwrap().clone();
    links.iter().any(|link| link["peer"] == peer && link["up"] == true)
}
