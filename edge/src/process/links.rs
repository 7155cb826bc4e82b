//! Links as the rest of the process sees them: where peers are dialled, why links are down, and which
//! addresses make up the underlay.

mod facts;
mod last_seen;
mod reach;
mod resolver;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use cframe_mesh::Event as MeshEvent;
use cframe_pki::identity::{Label, Role};
use cframe_protocol::v1::{EdgeState, Endpoint};
use tracing::{debug, info, warn};

use super::{desired::DesiredState, log_limit::LogLimit};
use crate::{
    host::driver::{MeshChange, MeshStatus},
    status::{Absence, LinkStatus, Traffic},
};
pub(super) use last_seen::LastSeen;
use reach::Reachability;
use resolver::Resolver;

#[derive(Debug)]
pub(super) struct Links {
    /// The UDP port of all links.
    pub(super) listen: u16,
    down: BTreeMap<Label, Down>,
    refusals: LogLimit,
    last_seen: LastSeen,
    resolver: Resolver,
    reach: Reachability,
    /// What the connection table of this host has dropped.
    drops: facts::Drops,
    /// Peers whose link is up and does not carry every packet, by the last judgement.
    impaired: BTreeSet<Label>,
    /// Whether these have changed since the last report.
    has_changed: bool,
    /// The addresses that were last given to the route keeper.
    underlay: BTreeSet<IpAddr>,
}

/// A link that went down, or never came up because a handshake was refused.
#[derive(Debug)]
struct Down {
    since: Instant,
    reason: String,
}

impl Links {
    pub(super) fn new(listen: u16, mark: u32, last_seen: LastSeen) -> Self {
        Self {
            listen,
            down: BTreeMap::new(),
            refusals: LogLimit::default(),
            last_seen,
            resolver: Resolver::default(),
            reach: Reachability::new(mark),
            drops: facts::Drops::default(),
            impaired: BTreeSet::new(),
            has_changed: false,
            underlay: BTreeSet::new(),
        }
    }

    pub(super) fn handle_event(&mut self, event: MeshEvent, desired: &DesiredState) {
        let now = Instant::now();
        match event {
            MeshEvent::LinkUp { peer, remote } => {
                info!(%peer, %remote, "link up");
                self.last_seen.record(&peer, remote);
                self.down.remove(&peer);
                self.impaired.remove(&peer);
            }
            MeshEvent::LinkDown { peer, reason } => {
                info!(%peer, %reason, "link down");
                self.resolve_peer(&peer, desired);
                self.down.insert(peer, Down { since: now, reason });
            }
            MeshEvent::Refused { remote, peer, reason } => {
                if let Some(count) = self.refusals.record(now) {
                    let peer = peer.as_ref().map(tracing::field::display);
                    warn!(%remote, peer, %reason, count, "handshake refused");
                }
                if let Some(peer) = peer {
                    self.resolve_peer(&peer, desired);
                    let since = self.down.get(&peer).map_or(now, |down| down.since);
                    self.down.insert(peer, Down { since, reason });
                }
            }
        }
    }

    fn set_impaired(&mut self, impaired: BTreeSet<Label>) {
        self.has_changed |= self.impaired != impaired;
        self.impaired = impaired;
    }

    /// Whether other links carry packets than when this was last asked.
    pub(super) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Whether packets pass on a link, as far as it was judged.
    pub(super) fn carries(&self, link: &cframe_mesh::LinkStatus) -> bool {
        link.up && !self.impaired.contains(&link.peer)
    }

    /// Stores where links are now, and forgets peers that have left.
    pub(super) fn follow(&mut self, links: &[cframe_mesh::LinkStatus]) {
        self.last_seen.follow(links);
    }

    /// Where a peer is dialled: at its endpoints, or where it was last seen if it has none.
    pub(super) fn dial_addresses(&self, peer: &Label, endpoints: &[Endpoint]) -> Vec<SocketAddr> {
        match endpoints {
            [] => self.last_seen.address(peer).into_iter().collect(),
            endpoints => self.resolver.addresses(endpoints),
        }
    }

    /// Starts lookups of all names of peers.
    pub(super) fn resolve_all(&mut self, desired: &DesiredState) {
        let endpoints = desired.applied.edges.values().flat_map(|state| &state.endpoints);
        self.resolver.look_up_only(endpoints);
    }

    fn resolve_peer(&mut self, peer: &Label, desired: &DesiredState) {
        for endpoint in desired.applied.edges.get(peer).iter().flat_map(|state| &state.endpoints) {
            self.resolver.look_up(endpoint);
        }
    }

    pub(super) fn is_resolving(&self) -> bool {
        self.resolver.is_busy()
    }

    /// Waits for a lookup; a name whose addresses have changed. Cancel-safe.
    pub(super) async fn next_resolved(&mut self) -> Option<Endpoint> {
        self.resolver.next().await
    }

    /// Peers that have this endpoint, with their addresses as they are resolved now.
    pub(super) fn peers_at(&self, endpoint: &Endpoint, desired: &DesiredState) -> Vec<MeshChange> {
        let at = desired.peers().filter(|(_, state)| state.endpoints.contains(endpoint));
        let changes: Vec<MeshChange> = at
            .map(|(name, state)| MeshChange::Peer {
                name: name.clone(),
                addresses: self.resolver.addresses(&state.endpoints),
            })
            .collect();
        debug!(%endpoint, peers = changes.len(), "resolved");
        changes
    }

    /// All peers, with where they are dialled.
    pub(super) fn all_peers(&self, desired: &DesiredState) -> Vec<MeshChange> {
        let peer = |(name, state): (&Label, &EdgeState)| MeshChange::Peer {
            name: name.clone(),
            addresses: self.dial_addresses(name, &state.endpoints),
        };
        desired.peers().map(peer).collect()
    }

    /// The addresses that make up the underlay, if they have changed: where peers may be dialled, where
    /// links lead, and the controller.
    pub(super) fn update_underlay(
        &mut self,
        desired: &DesiredState,
        linked: BTreeSet<IpAddr>,
        controller: Option<SocketAddr>,
    ) -> Option<BTreeSet<IpAddr>> {
        let mut underlay = linked;
        for (_, state) in desired.peers() {
            underlay.extend(self.resolver.addresses(&state.endpoints).iter().map(SocketAddr::ip));
        }
        underlay.extend(controller.map(|address| address.ip().to_canonical()));
        if underlay == self.underlay {
            return None;
        }
        self.underlay.clone_from(&underlay);
        Some(underlay)
    }

    /// Since when a link is up or down. `started`: since when the process runs.
    pub(super) fn since(&self, link: &cframe_mesh::LinkStatus, started: Instant) -> Instant {
        let down = self.down.get(&link.peer).map(|down| down.since);
        link.since.or(down).unwrap_or(started)
    }

    pub(super) fn status(
        &self,
        mesh: &MeshStatus,
        desired: &DesiredState,
        started: Instant,
        now: Instant,
    ) -> Vec<LinkStatus> {
        let status = |link: &cframe_mesh::LinkStatus| {
            let edge = desired.applied.edges.get(&link.peer);
            let endpoints = edge.map_or(&[][..], |edge| &edge.endpoints);
            LinkStatus {
                peer: link.peer.to_string(),
                up: link.up,
                absent: edge.filter(|edge| !edge.joined).map(|_| absence(desired, &link.peer)),
                since_secs: now.saturating_duration_since(self.since(link, started)).as_secs(),
                remote: link.remote,
                addresses: self.resolver.addresses(endpoints),
                dialed: link.dialed,
                rtt_us: u64::try_from(link.rtt.as_micros()).unwrap_or(u64::MAX),
                path_mtu: link.path_mtu,
                largest_inner: link.largest_inner,
                black_holes: link.black_holes,
                loss: share(link.lost_packets, link.sent_packets),
                traffic: Traffic {
                    sent_packets: link.traffic.sent,
                    sent_bytes: link.traffic.sent_bytes,
                    received_packets: link.traffic.received,
                    received_bytes: link.traffic.received_bytes,
                },
                reason: self.down.get(&link.peer).map(|down| down.reason.clone()),
            }
        };
        let mut links: Vec<LinkStatus> = mesh.links.iter().map(status).collect();
        links.sort_by(|a, b| a.peer.cmp(&b.peer));
        links
    }
}

/// Why a peer that is known has no certificate that counts.
fn absence(desired: &DesiredState, peer: &Label) -> Absence {
    let of_peer = |role: &Role| matches!(role, Role::Edge { name, .. } if name == peer);
    let revoked = desired.applied.denied.iter().any(|entry| of_peer(&entry.id.role));
    if revoked { Absence::Revoked } else { Absence::NotJoined }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn a_peer_without_endpoints_is_dialled_where_it_was_last_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut last_seen = LastSeen::load(dir.path(), &mut JoinSet::new());
        let peer: Label = "aliyun-sz".parse().unwrap();
        let remote: SocketAddr = "192.0.2.7:58423".parse().unwrap();
        last_seen.record(&peer, remote);
        let links = Links::new(58423, 0, last_seen);
        assert_eq!(links.dial_addresses(&peer, &[]), [remote]);
        let endpoint = "203.0.113.7:1".parse().unwrap();
        let addresses = links.dial_addresses(&peer, &[endpoint]);
        assert_eq!(addresses, ["203.0.113.7:1".parse().unwrap()], "an endpoint takes precedence");
        assert_eq!(links.dial_addresses(&"idc".parse().unwrap(), &[]), []);
    }
}
