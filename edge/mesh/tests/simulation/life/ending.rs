//! The end of a life: all is repaired, and then all must work.

use std::time::Duration;

use rand::RngExt;

use super::Life;
use crate::{
    desired::{Edges, host, site},
    invariants::{Broken, Violation, repaired},
    traffic::Id,
    world::Sabotage,
};

/// Every pair that can meet has traffic again so long after the repair: an idle time-out of 7 s, the
/// longest wait between dials of 5 s, and a handshake.
const REPAIR: Duration = Duration::from_secs(14);
/// A keep-alive, and an idle time-out after it.
const SILENCE: Duration = Duration::from_secs(10);
/// What was begun before the repair is over.
const REST: Duration = Duration::from_secs(5);
/// No latency that a seed draws makes a packet take longer.
const ARRIVAL: Duration = Duration::from_secs(1);

impl Life {
    /// All is mended, everybody is there, and knows everything.
    pub(super) fn repair(&mut self) -> Result<(), Violation> {
        self.over = true;
        self.world.say(format_args!("all is repaired"));
        if !self.world.sabotaged(Sabotage::LastingCut) {
            self.world.wire.heal_all();
        }
        for edge in 0..self.count() {
            self.readmit(edge);
        }
        for edge in 0..self.count() {
            if self.world.edges[edge].mesh.is_none() {
                self.start(edge)?;
            }
        }
        self.allowed().into_iter().try_for_each(|edge| self.world.sync(edge))
    }

    /// Sends a packet both ways between all that can meet, until one has arrived; how long it took.
    pub(super) fn converge(&mut self) -> Result<Duration, Violation> {
        let begun = self.world.now;
        let mut missing: Vec<_> = self
            .pairs()
            .map(|(from, to)| {
                let flow = self.flow(from, host(site(from)[0], 9), host(site(to)[0], 9));
                (flow, from, to)
            })
            .collect();
        let mut probes: Vec<(usize, Id)> = Vec::new();
        while !missing.is_empty() && self.world.now < begun + REPAIR {
            for &(flow, ..) in &missing {
                let read = self.flows[flow].packet_of(100);
                self.world.send(&self.flows[flow], &read)?;
                probes.push((flow, read.packets[0]));
            }
            self.run(self.world.now + Duration::from_millis(250))?;
            let done = |flow: usize| {
                let mut sent = probes.iter().filter(|probe| probe.0 == flow);
                sent.any(|probe| self.world.checker.was_delivered(probe.1))
            };
            missing.retain(|&(flow, ..)| !done(flow));
        }
        let took = self.world.now - begun;
        let missing: Vec<_> = missing.into_iter().map(|(_, from, to)| (from, to)).collect();
        repaired(&missing, took)?;
        self.world.say(format_args!("all pairs have traffic, {took:?} after the repair"));
        Ok(took)
    }

    /// Who can meet has a link, who is denied has none.
    pub(super) fn check_links(&mut self) -> Result<(), Violation> {
        // One that was not told that it is cut off hears of it when it next says something.
        let heard = if self.world.truth.denied.count() > 0 { SILENCE } else { 2 * ARRIVAL };
        self.run(self.world.now + heard)?;
        let linked: Vec<_> = (0..self.count()).map(|edge| self.linked(edge)).collect();
        let missing: Vec<_> = self.pairs().filter(|&(from, to)| !linked[from].has(to)).collect();
        repaired(&missing, self.world.now - self.length)?;
        for denied in self.world.truth.denied.iter() {
            for edge in self.allowed() {
                if linked[edge].has(denied) || linked[denied].has(edge) {
                    let what = format!("{denied}, which is denied, has a link with {edge}");
                    return Err(Violation::new(Broken::Denied, what));
                }
            }
        }
        Ok(())
    }

    /// Nothing is lost any more, of whatever size.
    pub(super) fn check_traffic(&mut self) -> Result<(), Violation> {
        let mut pairs: Vec<_> = self.pairs().collect();
        while pairs.len() > 60 {
            pairs.swap_remove(self.rng.random_range(0..pairs.len()));
        }
        let mut sent = Vec::new();
        for (from, to) in pairs {
            let flow = self.flow(from, host(site(from)[1], 8), host(site(to)[1], 8));
            for len in [68, 700, 1200, 1300, 1400, 1500] {
                let read = self.flows[flow].packet_of(len);
                self.world.send(&self.flows[flow], &read)?;
                sent.push((from, to, read.packets[0]));
            }
        }
        self.run(self.world.now + ARRIVAL)?;
        let lost = sent.iter().find(|(.., id)| !self.world.checker.was_delivered(*id));
        match lost {
            None => Ok(()),
            Some(lost) => Err(Violation::new(Broken::Repair, format!("lost: {lost:?}"))),
        }
    }

    /// One link for each pair, and at most one more that is closed and drains: that takes three probe
    /// time-outs, which after a handshake on a bad wire are many seconds. This is where nobody who is
    /// denied keeps knocking, and no link is being renewed.
    pub(super) fn check_rest(&mut self) -> Result<(), Violation> {
        if self.renewed || self.world.truth.denied.count() > 0 {
            return Ok(());
        }
        self.run(self.world.now + REST)?;
        for edge in 0..self.count() {
            let linked = self.linked(edge).count();
            let load = self.world.edges[edge].mesh.as_ref().map(|mesh| mesh.load());
            let rest = load.is_some_and(|load| load.links <= 2 * linked + load.unfinished);
            if !rest {
                let what = format!("{edge} has {linked} peers, and holds {load:?}");
                return Err(Violation::new(Broken::Bounds, what));
            }
        }
        Ok(())
    }

    /// The peers to whom an edge has a link.
    fn linked(&self, edge: usize) -> Edges {
        let mut linked = Edges::default();
        let links = self.world.edges[edge].mesh.iter().flat_map(|mesh| mesh.links());
        let identities = self.world.identities();
        links.filter(|link| link.up).for_each(|link| linked.add(identities.index(&link.peer)));
        linked
    }

    /// All ordered pairs of edges of which one can dial the other.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (allowed, listening) = (self.allowed(), self.listening());
        allowed.clone().into_iter().flat_map(move |from| {
            let others = allowed.clone().into_iter().filter(move |&to| to != from);
            others
                .filter(move |&to| listening.has(from) || listening.has(to))
                .map(move |to| (from, to))
        })
    }
}
