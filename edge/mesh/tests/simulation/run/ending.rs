//! The end of a run: everything is repaired, and then everything must work.

use std::time::Duration;

use rand::RngExt;

use super::Run;
use crate::{
    desired::{Edges, host, site},
    invariants::{Broken, Violation, all_repaired},
    setup::Sabotage,
    traffic::Id,
};

/// After the repair every connectable pair has traffic within the idle timeout of 7 s, the longest
/// backoff of 5 s, and a handshake.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(14);
/// A keep-alive, and the idle timeout after it.
const DEAD_LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes that were started before the repair are over after this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// No packet takes longer.
const MAX_LATENCY: Duration = Duration::from_secs(1);

impl Run {
    /// Repairs the wire, starts all edges, and gives them the whole desired state.
    pub(super) fn repair(&mut self) -> Result<(), Violation> {
        self.repaired = true;
        self.sim.log(format_args!("everything is repaired"));
        if !self.sim.has(Sabotage::NeverRepair) {
            self.sim.wire.repair_all();
        }
        for edge in 0..self.count() {
            self.add_member(edge);
        }
        for edge in 0..self.count() {
            if self.sim.edges[edge].mesh.is_none() {
                self.start(edge)?;
            }
        }
        self.allowed().into_iter().try_for_each(|edge| self.sim.sync(edge))
    }

    /// Sends packets both ways between all connectable pairs until one arrives; returns how long it
    /// took.
    pub(super) fn converge(&mut self) -> Result<Duration, Violation> {
        let started = self.sim.now;
        let mut missing: Vec<_> = self
            .pairs()
            .map(|(from, to)| {
                let flow = self.add_flow(from, host(site(from)[0], 9), host(site(to)[0], 9));
                (flow, from, to)
            })
            .collect();
        let mut probes: Vec<(usize, Id)> = Vec::new();
        while !missing.is_empty() && self.sim.now < started + CONVERGENCE_TIMEOUT {
            for &(flow, ..) in &missing {
                let read = self.flows[flow].packet_of(100);
                self.sim.send(&self.flows[flow], &read)?;
                probes.push((flow, read.packets[0]));
            }
            self.run_until(self.sim.now + Duration::from_millis(250))?;
            let done = |flow: usize| {
                let mut sent = probes.iter().filter(|probe| probe.0 == flow);
                sent.any(|probe| self.sim.checker.was_delivered(probe.1))
            };
            missing.retain(|&(flow, ..)| !done(flow));
        }
        let took = self.sim.now - started;
        let missing: Vec<_> = missing.into_iter().map(|(_, from, to)| (from, to)).collect();
        all_repaired(&missing, took)?;
        self.sim.log(format_args!("all pairs have traffic, {took:?} after the repair"));
        Ok(took)
    }

    /// Connectable pairs have a link, revoked edges have none.
    pub(super) fn check_links(&mut self) -> Result<(), Violation> {
        // A revoked edge that did not receive the close notices it when it sends its next packet.
        let revoked = self.sim.desired.denied.count() > 0;
        let wait = if revoked { DEAD_LINK_TIMEOUT } else { 2 * MAX_LATENCY };
        self.run_until(self.sim.now + wait)?;
        let linked: Vec<_> = (0..self.count()).map(|edge| self.linked(edge)).collect();
        let missing: Vec<_> =
            self.pairs().filter(|&(from, to)| !linked[from].contains(to)).collect();
        all_repaired(&missing, self.sim.now - self.length)?;
        for denied in self.sim.desired.denied.iter() {
            for edge in self.allowed() {
                if linked[edge].contains(denied) || linked[denied].contains(edge) {
                    let what = format!("{denied}, which is revoked, has a link with {edge}");
                    return Err(Violation::new(Broken::Denied, what));
                }
            }
        }
        Ok(())
    }

    /// No packet of any size is lost.
    pub(super) fn check_traffic(&mut self) -> Result<(), Violation> {
        let mut pairs: Vec<_> = self.pairs().collect();
        while pairs.len() > 60 {
            pairs.swap_remove(self.rng.random_range(0..pairs.len()));
        }
        let mut sent = Vec::new();
        for (from, to) in pairs {
            let flow = self.add_flow(from, host(site(from)[1], 8), host(site(to)[1], 8));
            for len in [68, 700, 1200, 1300, 1400, 1500] {
                let read = self.flows[flow].packet_of(len);
                self.sim.send(&self.flows[flow], &read)?;
                sent.push((from, to, read.packets[0]));
            }
        }
        self.run_until(self.sim.now + MAX_LATENCY)?;
        let lost = sent.iter().find(|(.., id)| !self.sim.checker.was_delivered(*id));
        match lost {
            None => Ok(()),
            Some(lost) => Err(Violation::new(Broken::Repair, format!("lost: {lost:?}"))),
        }
    }

    /// There is one link for each pair, and at most one more that is closed and drains: that takes
    /// three probe timeouts, which after a handshake on a bad wire are many seconds. Not checked if
    /// revoked edges keep dialling, or links are being replaced.
    pub(super) fn check_memory(&mut self) -> Result<(), Violation> {
        if self.renewed || self.sim.desired.denied.count() > 0 {
            return Ok(());
        }
        self.run_until(self.sim.now + HANDSHAKE_TIMEOUT)?;
        for edge in 0..self.count() {
            let linked = self.linked(edge).count();
            let load = self.sim.edges[edge].mesh.as_ref().map(|mesh| mesh.load());
            let within = load.is_some_and(|load| load.links <= 2 * linked + load.unfinished);
            if !within {
                let what = format!("{edge} has {linked} peers, and holds {load:?}");
                return Err(Violation::new(Broken::Bounds, what));
            }
        }
        Ok(())
    }

    /// The peers to which an edge has a link.
    fn linked(&self, edge: usize) -> Edges {
        let mut linked = Edges::default();
        let links = self.sim.edges[edge].mesh.iter().flat_map(|mesh| mesh.links());
        let identities = &self.sim.setup.identities;
        links.filter(|link| link.up).for_each(|link| linked.insert(identities.index(&link.peer)));
        linked
    }

    /// The connectable pairs: all ordered pairs of edges of which one can dial the other.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (allowed, listening) = (self.allowed(), self.listening());
        allowed.clone().into_iter().flat_map(move |from| {
            let others = allowed.clone().into_iter().filter(move |&to| to != from);
            others
                .filter(move |&to| listening.contains(from) || listening.contains(to))
                .map(move |to| (from, to))
        })
    }
}
