//! What a life was like, to see that lives have in them what they are for.

use std::{ops::AddAssign, time::Duration};

use cframe_mesh::{Load, Reason};

use crate::{
    net::Seen,
    world::{World, higher},
};

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) digest: u64,
    pub(crate) lives: u64,
    /// Lives of ten edges and more.
    pub(crate) large: u64,
    pub(crate) delivered: u64,
    /// Deliveries that stood for several packets.
    pub(crate) merged: u64,
    /// Packets that left in fragments, by cores that lived to the end.
    pub(crate) fragmented: u64,
    /// Packets of forged source or for another's network, that receivers dropped.
    pub(crate) forged: u64,
    /// Handshakes that one side refused.
    pub(crate) refused: u64,
    pub(crate) denied: u64,
    pub(crate) seen: Seen,
    /// The slowest repair.
    pub(crate) converged: Duration,
    pub(crate) peak: Load,
}

impl Report {
    pub(crate) fn new(world: &World, converged: Duration) -> Self {
        let count = |of: &dyn Fn(&cframe_mesh::Counters) -> u64| {
            world
                .edges
                .iter()
                .filter_map(|edge| edge.mesh.as_ref())
                .map(|mesh| of(mesh.counters()))
                .sum()
        };
        Self {
            digest: world.trace.digest(),
            lives: 1,
            large: u64::from(world.edges.len() >= 10),
            delivered: world.checker.delivered,
            merged: world.checker.merged,
            fragmented: count(&|counters| counters.fragmented),
            forged: count(&|counters| {
                counters.dropped_for(Reason::PeerForgedSource)
                    + counters.dropped_for(Reason::PeerForeignDestination)
            }),
            refused: count(&|counters| counters.dropped_for(Reason::HandshakeRefused)),
            denied: world.truth.denied.count() as u64,
            seen: world.wire.seen,
            converged,
            peak: world.peak,
        }
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.digest ^= other.digest;
        self.lives += other.lives;
        self.large += other.large;
        self.delivered += other.delivered;
        self.merged += other.merged;
        self.fragmented += other.fragmented;
        self.forged += other.forged;
        self.refused += other.refused;
        self.denied += other.denied;
        self.seen += other.seen;
        self.converged = self.converged.max(other.converged);
        self.peak = higher(self.peak, other.peak);
    }
}
