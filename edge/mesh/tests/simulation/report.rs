//! Statistics of runs, to verify that they exercise what they are for.

use std::{ops::AddAssign, time::Duration};

use cframe_mesh::{Load, Reason};

use crate::{
    simulation::{Simulation, maximum},
    wire::WireCounters,
};

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) digest: u64,
    pub(crate) runs: u64,
    /// Runs with ten edges or more.
    pub(crate) large: u64,
    pub(crate) delivered: u64,
    /// Super-packets written to a TUN.
    pub(crate) merged: u64,
    /// Packets sent in fragments, by cores that ran at the end.
    pub(crate) fragmented: u64,
    /// Packets with a forged source or another's destination that receivers dropped.
    pub(crate) forged: u64,
    /// Handshakes that one side refused.
    pub(crate) refused: u64,
    pub(crate) denied: u64,
    pub(crate) wire: WireCounters,
    /// The longest time from the repair until all pairs had traffic.
    pub(crate) converged: Duration,
    pub(crate) peak: Load,
}

impl Report {
    pub(crate) fn new(simulation: &Simulation, converged: Duration) -> Self {
        let count = |of: &dyn Fn(&cframe_mesh::Counters) -> u64| {
            simulation
                .edges
                .iter()
                .filter_map(|edge| edge.mesh.as_ref())
                .map(|mesh| of(mesh.counters()))
                .sum()
        };
        Self {
            digest: simulation.trace.digest(),
            runs: 1,
            large: u64::from(simulation.edges.len() >= 10),
            delivered: simulation.checker.delivered,
            merged: simulation.checker.merged,
            fragmented: count(&|counters| counters.fragmented),
            forged: count(&|counters| {
                counters.dropped_for(Reason::PeerForgedSource)
                    + counters.dropped_for(Reason::PeerForeignDestination)
            }),
            refused: count(&|counters| counters.dropped_for(Reason::HandshakeRefused)),
            denied: simulation.desired.denied.count() as u64,
            wire: simulation.wire.counters,
            converged,
            peak: simulation.peak,
        }
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.digest ^= other.digest;
        self.runs += other.runs;
        self.large += other.large;
        self.delivered += other.delivered;
        self.merged += other.merged;
        self.fragmented += other.fragmented;
        self.forged += other.forged;
        self.refused += other.refused;
        self.denied += other.denied;
        self.wire += other.wire;
        self.converged = self.converged.max(other.converged);
        self.peak = maximum(self.peak, other.peak);
    }
}
