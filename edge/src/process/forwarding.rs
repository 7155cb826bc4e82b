//! What is measured of the host's forwarding: kept in step with prefixes, device and links.

use std::{net::IpAddr, sync::Arc};

use cframe_protocol::v1::Version;
use ipnet::IpNet;

use super::EdgeProcess;
use crate::host::{
    driver::MeshStatus,
    probe::{PortSite, Probe, Site},
};

/// Peers whose addresses are used as sources of probes.
const MAX_PEERS: usize = 16;

#[derive(Debug)]
pub(super) struct Measurement {
    pub(super) probe: Probe,
    /// The mark of the socket's packets.
    mark: u32,
    /// The version of the prefixes.
    version: Option<Version>,
    own: Vec<IpNet>,
    foreign: Arc<Vec<IpNet>>,
}

impl Measurement {
    pub(super) fn new(probe: Probe, mark: u32) -> Self {
        Self { probe, mark, version: None, own: Vec::new(), foreign: Arc::default() }
    }
}

impl EdgeProcess {
    /// Tells the measurement what there is now.
    pub(super) fn update_forwarding(&mut self, mesh: &MeshStatus) {
        let version = self.desired.version();
        if self.forwarding.version != version {
            let prefixes = &self.desired.applied.prefixes;
            let (own, foreign): (Vec<_>, Vec<_>) =
                prefixes.iter().partition(|(_, owner)| **owner == self.identity.name);
            self.forwarding.own = own.into_iter().map(|(net, _)| *net).collect();
            let foreign = foreign.into_iter().map(|(net, _)| *net).collect();
            self.forwarding.foreign = Arc::new(foreign);
            self.forwarding.version = version;
        }
        let linked: Vec<_> =
            mesh.links.iter().filter(|link| link.up).filter_map(|link| link.remote).collect();
        let mut peers: Vec<IpAddr> = linked.iter().map(|remote| remote.ip()).collect();
        for (name, state) in self.desired.peers().take(MAX_PEERS) {
            peers
                .extend(self.links.dial_addresses(name, &state.endpoints).iter().map(|at| at.ip()));
        }
        peers.sort_unstable();
        peers.dedup();
        peers.truncate(MAX_PEERS);
        let down = mesh.links.iter().filter(|link| !link.up);
        let attempts = down.flat_map(|link| &link.dialling.attempts);
        let failing = attempts.filter(|attempt| attempt.failed > 0).map(|attempt| attempt.remote);
        let edges = &self.desired.applied.edges;
        let own = edges.get(&self.identity.name);
        self.forwarding.probe.set_site(Site {
            own: self.forwarding.own.clone(),
            foreign: Arc::clone(&self.forwarding.foreign),
            tun: self.device.index.filter(|_| mesh.tun),
            cut: self.identity.cut.is_some(),
            port: PortSite {
                listen: self.links.listen,
                mark: self.forwarding.mark,
                is_dialled: own.is_some_and(|own| !own.endpoints.is_empty()),
                linked,
                failing: failing.take(MAX_PEERS).collect(),
                peers,
                refused_sends: mesh.host.udp_not_permitted,
                link_down: mesh.links.iter().any(|link| !link.up),
            },
        });
    }
}
