//! The wire between edges: datagrams under way, and what can happen to them.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use cframe_mesh::Transmit;
use rand::{RngExt, SeedableRng, rngs::StdRng};

pub(crate) const LATENCY: Duration = Duration::from_millis(10);

// fields: what a test can do to packets on the way, each by itself.
pub(crate) struct Wire {
    pub(crate) latency: Duration,
    /// Largest UDP payload in bytes that arrives.
    pub(crate) mtu: usize,
    /// Datagrams from and to these addresses are lost.
    pub(crate) cut_off: HashSet<SocketAddr>,
    /// Whether datagrams with an ECN mark are lost.
    pub(crate) drops_marked: bool,
    /// Datagrams of this sender are lost.
    pub(crate) mute: Option<SocketAddr>,
    /// The share of datagrams that are lost.
    pub(crate) loss: f64,
    rng: StdRng,
    /// Whether every ECN-capable datagram is marked CE.
    pub(crate) congested: bool,
    /// After its first so many datagrams, those of this sender are delayed until
    /// [`Self::release_held`].
    pub(crate) hold: Option<(SocketAddr, usize)>,
    held: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Every datagram that was sent.
    pub(crate) captured: Vec<Vec<u8>>,
    /// Bytes of the largest batch that an edge sent at once.
    pub(crate) largest_batch: usize,
    flights: BinaryHeap<Reverse<Flight>>,
    sequence: u64,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Flight {
    pub(crate) at: Instant,
    sequence: u64,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// Whether its ECN field says that it is ECN-capable.
    pub(crate) ect: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            latency: LATENCY,
            mtu: 1472,
            cut_off: HashSet::new(),
            drops_marked: false,
            mute: None,
            loss: 0.0,
            rng: StdRng::seed_from_u64(1),
            congested: false,
            hold: None,
            held: Vec::new(),
            captured: Vec::new(),
            largest_batch: 0,
            flights: BinaryHeap::new(),
            sequence: 0,
        }
    }
}

impl Wire {
    /// Sends what an edge at `from` transmits.
    pub(crate) fn carry(
        &mut self,
        now: Instant,
        from: SocketAddr,
        transmit: &Transmit,
        buf: &[u8],
    ) {
        self.largest_batch = self.largest_batch.max(transmit.size);
        let to = transmit.destination;
        let size = transmit.segment_size.unwrap_or(transmit.size).max(1);
        for datagram in buf[..transmit.size].chunks(size) {
            self.captured.push(datagram.to_vec());
            let lost = datagram.len() > self.mtu
                || self.cut_off.contains(&from)
                || self.cut_off.contains(&to)
                || self.mute == Some(from)
                || (self.drops_marked && transmit.ecn.is_some())
                || (self.loss > 0.0 && self.rng.random_bool(self.loss));
            // A socket can't send from an address that its host no longer has.
            let gone = transmit.src_ip.is_some_and(|ip| ip != from.ip());
            if lost || gone || self.hold_back(from, to, datagram) {
                continue;
            }
            self.push(now, from, to, transmit.ecn.is_some(), datagram.to_vec());
        }
    }

    fn hold_back(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) -> bool {
        let Some((_, left)) = self.hold.as_mut().filter(|hold| hold.0 == from) else {
            return false;
        };
        if *left == 0 {
            self.held.push((from, to, datagram.to_vec()));
            return true;
        }
        *left -= 1;
        false
    }

    pub(crate) fn release_held(&mut self, now: Instant) {
        self.hold = None;
        for (from, to, bytes) in std::mem::take(&mut self.held) {
            self.push(now, from, to, false, bytes);
        }
    }

    pub(crate) fn push(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        ect: bool,
        bytes: Vec<u8>,
    ) {
        self.sequence += 1;
        let (at, sequence) = (now + self.latency, self.sequence);
        self.flights.push(Reverse(Flight { at, sequence, from, to, ect, bytes }));
    }

    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.flights.peek().map(|flight| flight.0.at)
    }

    /// The next datagram that has arrived by `now`.
    pub(crate) fn arrived(&mut self, now: Instant) -> Option<Flight> {
        if self.next_arrival()? > now {
            return None;
        }
        self.flights.pop().map(|flight| flight.0)
    }
}
