//! What is known of links, as facts to judge.

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cframe_pki::identity::{Label, SpiffeId};
use cframe_protocol::v1::EdgeState;

use super::{DesiredState, Links};
use crate::{
    host::{conntrack, driver::MeshStatus},
    judge::links::{Connections, Contest, LinkFacts, LinkState, PeerFacts},
};

/// For how long the connection table is taken to drop packets after it did.
const DROPS_MEMORY: Duration = Duration::from_secs(6);
/// Names of peers without a link are looked up this often: the peer may have moved.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

/// Drops of the connection table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drops {
    count: u64,
    grown: Option<Instant>,
}

impl Links {
    /// Also asks addresses where dials fail, and looks names up that have no address.
    pub(in crate::process) fn facts(
        &mut self,
        id: &SpiffeId,
        own: &Label,
        mesh: &MeshStatus,
        desired: &DesiredState,
    ) -> LinkFacts {
        let now = Instant::now();
        self.ask_again(now, mesh, desired);
        let own_endpoints =
            desired.applied.edges.get(own).map_or_else(Vec::new, |state| state.endpoints.clone());
        let mut peers: Vec<PeerFacts> = mesh
            .links
            .iter()
            .filter_map(|link| {
                let state = desired.applied.edges.get(&link.peer)?;
                Some(self.peer_facts(now, link, state))
            })
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        let fails =
            |peer: &&PeerFacts| matches!(peer.link, LinkState::Up { .. }) && !peer.link.carries();
        self.set_impaired(peers.iter().filter(fails).map(|peer| peer.name.clone()).collect());
        LinkFacts {
            namespace: id.role.namespace().map(ToString::to_string).unwrap_or_default(),
            own: own.to_string(),
            own_addresses: self
                .resolver
                .addresses(&own_endpoints)
                .iter()
                .map(SocketAddr::ip)
                .collect(),
            own_endpoints,
            listen: self.listen,
            peers,
            connections: self.connections(now),
        }
    }

    fn peer_facts(
        &self,
        now: Instant,
        link: &cframe_mesh::LinkStatus,
        state: &EdgeState,
    ) -> PeerFacts {
        let age = |at: Instant| now.saturating_duration_since(at);
        let failing = link.dialling.attempts.iter().map(|attempt| attempt.remote);
        let reached = failing.filter_map(|remote| Some((remote, self.reach.at(remote)?)));
        let link_state = match link.up {
            true => LinkState::Up {
                rtt: link.rtt,
                remote: link.remote,
                silence: link.acked.map(age).unwrap_or_default(),
                unmarked: link.unmarked && link.dialed,
                quality: link.quality,
            },
            false => LinkState::Down {
                lasts: link.down.map(|down| age(down.since)).unwrap_or_default(),
                timed_out: link.down.is_some_and(|down| down.timed_out),
                dialling: link.dialling.clone(),
            },
        };
        PeerFacts {
            name: link.peer.clone(),
            joined: state.joined,
            endpoints: state.endpoints.clone(),
            unresolved: self.resolver.unresolved(&state.endpoints),
            link: link_state,
            contested: link
                .contested
                .map(|contested| Contest { age: age(contested.at), refused: contested.refused }),
            reached: reached.collect(),
        }
    }

    fn ask_again(&mut self, now: Instant, mesh: &MeshStatus, desired: &DesiredState) {
        let edges = &desired.applied.edges;
        let down = || mesh.links.iter().filter(|link| !link.up);
        let failing: HashSet<SocketAddr> = down()
            .filter(|link| edges.get(&link.peer).is_some_and(|state| state.joined))
            .flat_map(|link| &link.dialling.attempts)
            .filter(|attempt| attempt.send_error.is_some() || attempt.failed > 0)
            .filter(|attempt| !attempt.small.passes() && !attempt.leads_here)
            .map(|attempt| attempt.remote)
            .collect();
        self.reach.ask(now, &failing);
        let endpoints = down().filter_map(|link| edges.get(&link.peer));
        for endpoint in endpoints.flat_map(|state| &state.endpoints) {
            self.resolver.look_up_after(endpoint, LOOKUP_INTERVAL);
        }
        self.resolver.retry_failed();
    }

    fn connections(&mut self, now: Instant) -> Option<Connections> {
        let table = conntrack::read()?;
        let drops = &mut self.drops;
        if table.dropped > drops.count && drops.count > 0 || table.count >= table.max {
            drops.grown = Some(now);
        }
        drops.count = table.dropped.max(1);
        let dropping = drops.grown.is_some_and(|at| now.duration_since(at) < DROPS_MEMORY);
        Some(Connections { count: table.count, max: table.max, dropping })
    }
}
