//! Three hosts with a member of etcd and a controller each, and edges whose controller a test chooses.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cframe_protocol::v1::Version;
use cframe_testbed::deployment::{Deployment, Edge, Output, Transcript};
use cframe_testbed::{Lab, PublicHost, Site, privilege, wait_until};
use serde_json::Value;

use super::etcd::Member;
use crate::world::{PATIENCE, Share, figure};

/// The fields go in this order.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) deployment: Deployment,
    pub(crate) members: Vec<Member>,
    pub(crate) hosts: Vec<PublicHost>,
    pub(crate) lab: Lab,
    sites: usize,
    _share: Share,
}

impl Cluster {
    /// Three members, and so many controllers on the first hosts.
    pub(crate) fn start(name: &str, controllers: usize, share: Share) -> Self {
        privilege::ensure().unwrap();
        let mut lab = Lab::new(name).unwrap();
        let host = |n: usize| {
            lab.host(&format!("ctl{n}")).public(&format!("198.51.10{n}.10/24")).build().unwrap()
        };
        let hosts: Vec<PublicHost> = (1..=3).map(host).collect();
        let members = Member::start_all(&lab, &hosts);
        members[0].wait_healthy();
        let endpoints: Vec<String> = members.iter().map(Member::endpoint).collect();
        let config = format!("[store]\nkind = \"etcd\"\n\n[etcd]\nendpoints = {endpoints:?}\n");
        let quiet = Transcript::default();
        let mut deployment =
            Deployment::start_configured("lab", lab.dir(), &hosts[0], quiet, &config).unwrap();
        for host in &hosts[1..controllers] {
            deployment.add_controller(host.name(), host).unwrap();
        }
        deployment.ctl_ok(&["namespace", "add", "prod"]).unwrap();
        let cluster = Self { deployment, members, hosts, lab, sites: 0, _share: share };
        for n in 0..controllers {
            cluster.write_context(n);
        }
        cluster
    }

    /// A context of the first admin that knows one controller alone.
    fn write_context(&self, controller: usize) {
        let text = std::fs::read_to_string(self.deployment.context_file()).unwrap();
        let first = self.hosts[0].address().to_string();
        let text = text.replace(&first, &self.hosts[controller].address().to_string());
        let path = self.context(controller);
        cframe_pki::files::write_secret(&path, text.as_bytes()).unwrap();
    }

    fn context(&self, controller: usize) -> std::path::PathBuf {
        self.lab.path(&format!("context-{controller}.toml"))
    }

    /// Runs `cfctl` with one of the controllers.
    pub(crate) fn ctl(&self, controller: usize, args: &[&str]) -> Output {
        self.deployment.ctl_as(&self.context(controller), args).unwrap()
    }

    /// The same, with its answer in JSON.
    pub(crate) fn json(&self, controller: usize, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        self.ctl(controller, &args).json().unwrap()
    }

    /// One more site, with a network inside.
    pub(crate) fn site(&mut self) -> Site {
        self.sites += 1;
        let n = self.sites;
        let site = self.lab.site(&format!("e{n}")).public(&format!("100.7{n}.0.7/24"));
        site.inner(&format!("10.7{n}.0.0/16")).build().unwrap()
    }

    /// One more edge, at this controller.
    pub(crate) fn edge(&mut self, controller: usize) -> Edge {
        let site = self.site();
        let mut edge = self.deployment.edge(&site).enrol().unwrap();
        edge.wait_synced().unwrap();
        self.settle(&mut edge, controller);
        edge
    }

    /// Has an edge go to a controller, if it is at another.
    pub(crate) fn settle(&self, edge: &mut Edge, controller: usize) {
        let uplink = edge.site().uplink().clone();
        let others = || self.hosts.iter().enumerate().filter(|(n, _)| *n != controller);
        let wanted = self.hosts[controller].address();
        if connected(edge) != Some(wanted) {
            others().for_each(|(_, host)| uplink.cut_from(host.uplink(), true).unwrap());
            wait_at(edge, &[wanted], 2 * PATIENCE);
            others().for_each(|(_, host)| uplink.cut_from(host.uplink(), false).unwrap());
        }
    }

    /// The newest revision of the namespace, as a controller has it.
    pub(crate) fn revision(&self, controller: usize) -> u64 {
        let status = self.json(controller, &["status"]);
        status["namespaces"][0]["revision"].as_u64().unwrap_or_else(|| panic!("{status:#}"))
    }

    /// Waits until all edges have at least this revision; how long that took.
    pub(crate) fn wait_revision(&self, edges: &[Edge], revision: u64, limit: Duration) -> Duration {
        let start = Instant::now();
        for edge in edges {
            let waited =
                wait_until(limit, || version(edge).is_some_and(|v| v.namespace >= revision));
            waited.unwrap_or_else(|error| {
                panic!("{} has {:?}, not {revision}: {error:#}", edge.name(), version(edge))
            });
        }
        start.elapsed()
    }
}

/// With which controller an edge has its session.
pub(crate) fn connected(edge: &Edge) -> Option<IpAddr> {
    let status = edge.status().ok()?;
    let address: std::net::SocketAddr = status["controller"]["connected"].as_str()?.parse().ok()?;
    Some(address.ip())
}

/// Waits until an edge has a session with one of these.
pub(crate) fn wait_at(edge: &Edge, wanted: &[IpAddr], limit: Duration) -> Duration {
    let at = || connected(edge).is_some_and(|address| wanted.contains(&address));
    wait_until(limit, at).unwrap_or_else(|error| {
        panic!("{} is at {:?}, not {wanted:?}: {error:#}", edge.name(), connected(edge))
    })
}

/// What an edge has applied.
pub(crate) fn version(edge: &Edge) -> Option<Version> {
    edge.status().ok()?["state"]["version"].as_str()?.parse().ok()
}

/// Ends pings; none of them may be lost.
pub(crate) fn none_lost(what: &str, pingers: Vec<cframe_testbed::Pinger>) {
    let (mut sent, mut lost) = (0, 0);
    for pinger in pingers {
        let stats = pinger.stop();
        (sent, lost) = (sent + stats.sent, lost + stats.lost.len());
    }
    figure(what, format_args!("{lost} of {sent} (bound 0)"));
    assert_eq!(lost, 0);
}
