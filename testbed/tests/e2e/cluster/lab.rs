//! Three hosts with a member of etcd and a controller each, and edges whose controller a test chooses.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cframe_protocol::v1::Version;
use cframe_testbed::deployment::{Deployment, Edge, Output};
use cframe_testbed::{Lab, PublicHost, Site, privilege};
use serde_json::Value;

use super::etcd::Member;
use crate::lab::{Share, TIMEOUT, wait_for};

/// The fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) deployment: Deployment,
    pub(crate) members: Vec<Member>,
    pub(crate) hosts: Vec<PublicHost>,
    net: Lab,
    /// Number of sites so far.
    sites: usize,
    _share: Share,
}

impl Cluster {
    /// Starts three members of etcd, and controllers on the first hosts.
    pub(crate) fn start(name: &str, controllers: usize, share: Share) -> Self {
        privilege::ensure().unwrap();
        let mut net = Lab::new(name).unwrap();
        let host = |n: usize| {
            net.host(&format!("ctl{n}")).public(&format!("198.51.10{n}.10/24")).build().unwrap()
        };
        let hosts: Vec<PublicHost> = (1..=3).map(host).collect();
        let members = Member::start_all(&net, &hosts);
        members[0].wait_healthy();
        let endpoints: Vec<&str> = members.iter().map(Member::endpoint).collect();
        let config = format!("[store]\nkind = \"etcd\"\n\n[etcd]\nendpoints = {endpoints:?}\n");
        let mut deployment =
            Deployment::start_or_resume("lab", net.dir(), &hosts[0], &config).unwrap();
        for host in &hosts[1..controllers] {
            deployment.add_controller(host.name(), host).unwrap();
        }
        deployment.ctl_ok(&["namespace", "add", "prod"]).unwrap();
        let cluster = Self { deployment, members, hosts, net, sites: 0, _share: share };
        for n in 0..controllers {
            cluster.write_context(n);
        }
        cluster
    }

    /// Writes a context of the first admin with one controller only.
    fn write_context(&self, controller: usize) {
        let text = std::fs::read_to_string(self.deployment.context_file()).unwrap();
        let first = self.hosts[0].address().to_string();
        let text = text.replace(&first, &self.hosts[controller].address().to_string());
        let path = self.context(controller);
        cframe_pki::files::write_secret(&path, text.as_bytes()).unwrap();
    }

    fn context(&self, controller: usize) -> PathBuf {
        self.net.path(&format!("context-{controller}.toml"))
    }

    /// Runs `cfctl` with one of the controllers.
    pub(crate) fn ctl(&self, controller: usize, args: &[&str]) -> Output {
        self.deployment.ctl_as(&self.context(controller), args).unwrap()
    }

    /// Runs `cfctl -o json` with one of the controllers.
    pub(crate) fn json(&self, controller: usize, args: &[&str]) -> Value {
        self.ctl(controller, &[args, &["-o", "json"]].concat()).json().unwrap()
    }

    /// Builds one more site.
    pub(crate) fn site(&mut self) -> Site {
        self.sites += 1;
        let n = self.sites;
        let site = self.net.site(&format!("e{n}")).public(&format!("100.7{n}.0.7/24"));
        site.inner(&format!("10.7{n}.0.0/16")).build().unwrap()
    }

    /// Starts one more edge, with its session at this controller.
    pub(crate) fn edge(&mut self, controller: usize) -> Edge {
        let site = self.site();
        let mut edge = self.deployment.edge(&site).enrol().unwrap();
        edge.wait_synced().unwrap();
        self.move_edge(&edge, controller);
        edge
    }

    /// Makes an edge connect to a controller, by cutting it off from the others for a moment.
    fn move_edge(&self, edge: &Edge, controller: usize) {
        let uplink = edge.site().uplink();
        let others = || self.hosts.iter().enumerate().filter(|(n, _)| *n != controller);
        let wanted = self.hosts[controller].address();
        if connected(edge) != Some(wanted) {
            others().for_each(|(_, host)| uplink.cut_from(host.uplink(), true).unwrap());
            wait_connected(edge, &[wanted], 2 * TIMEOUT);
            others().for_each(|(_, host)| uplink.cut_from(host.uplink(), false).unwrap());
        }
    }

    /// The newest revision of the namespace that a controller has.
    pub(crate) fn revision(&self, controller: usize) -> u64 {
        let status = self.json(controller, &["status"]);
        status["namespaces"][0]["revision"].as_u64().unwrap_or_else(|| panic!("{status:#}"))
    }

    /// Waits until all edges have at least this revision.
    pub(crate) fn wait_revision(&self, edges: &[Edge], revision: u64, timeout: Duration) {
        for edge in edges {
            let waited =
                wait_for(timeout, || version(edge).is_some_and(|v| v.namespace >= revision));
            waited.unwrap_or_else(|error| {
                panic!("{} has {:?}, not {revision}: {error:#}", edge.name(), version(edge))
            });
        }
    }
}

/// The address of the controller with which an edge has its session.
pub(crate) fn connected(edge: &Edge) -> Option<IpAddr> {
    let status = edge.status().ok()?;
    let address: std::net::SocketAddr = status["controller"]["connected"].as_str()?.parse().ok()?;
    Some(address.ip())
}

/// Waits until an edge has a session with one of these controllers.
pub(crate) fn wait_connected(edge: &Edge, wanted: &[IpAddr], timeout: Duration) {
    let is_connected = || connected(edge).is_some_and(|address| wanted.contains(&address));
    wait_for(timeout, is_connected).unwrap_or_else(|error| {
        panic!("{} is at {:?}, not {wanted:?}: {error:#}", edge.name(), connected(edge))
    });
}

/// The version that an edge has applied.
pub(crate) fn version(edge: &Edge) -> Option<Version> {
    edge.status().ok()?["state"]["version"].as_str()?.parse().ok()
}
