//! Edges, the wire between them and one queue of what is due, in virtual time.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use cframe_mesh::{Event, Load, Received};

use crate::{
    desired::{Desired, Item},
    edge::{Edge, Identities, Protection},
    invariants::{Checker, Violation, within_bounds},
    net::{Arrival, Wire},
    trace::Trace,
    traffic::Flow,
};

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) edges: Vec<Edge>,
    /// What the controller has.
    pub(crate) truth: Desired,
    pub(crate) wire: Wire,
    /// Whether the wire keeps the order of a pair's datagrams.
    pub(crate) orderly: bool,
    pub(crate) checker: Checker,
    pub(crate) trace: Trace,
    /// The most that any core held at any time.
    pub(crate) peak: Load,
    identities: Arc<Identities>,
    protection: Protection,
    sabotage: Option<Sabotage>,
    seed: u64,
    /// The instant that virtual time is counted from; which one does not matter.
    start: Instant,
    queue: BinaryHeap<Reverse<Due>>,
    sequence: u64,
    addresses: BTreeMap<SocketAddr, usize>,
    next_address: u32,
    /// A write that is held back, for [`Sabotage::Overtake`].
    held: Option<(usize, Vec<u8>)>,
}

/// A fault in the world itself, to see that the checks find it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sabotage {
    /// What is written to a TUN is seen twice.
    Duplicate,
    /// Writes to a TUN change places.
    Overtake,
    /// What is written to one edge's TUN comes out of another's.
    Misdeliver,
    /// A byte of what is written is changed.
    Damage,
    /// Cores believe an edge that claims another's addresses.
    BelieveClaims,
    /// Cores are not told of revocations.
    DeafToRevocations,
    /// A partition that is never healed.
    LastingCut,
}

/// What the schedule of a life asks to be reminded of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    Start(usize),
    Mishap,
    Heal(u32),
    Readmit(usize),
    /// A flow's turn.
    Flow(usize),
}

struct Due {
    at: Duration,
    sequence: u64,
    what: What,
}

enum What {
    Arrive { from: SocketAddr, to: SocketAddr, arrival: Arrival },
    Timer(usize),
    Learn(usize, Item),
    Sync(usize),
    Plan(Plan),
}

impl World {
    pub(crate) fn new(
        identities: Arc<Identities>,
        protection: Protection,
        sabotage: Option<Sabotage>,
        seed: u64,
        listening: &[bool],
    ) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            edges: Vec::new(),
            truth: Desired::default(),
            wire: Wire::new(listening.len(), seed),
            orderly: false,
            checker: Checker::default(),
            trace: Trace::default(),
            peak: Load::default(),
            identities,
            protection,
            sabotage,
            seed,
            start: Instant::now(),
            queue: BinaryHeap::new(),
            sequence: 0,
            addresses: BTreeMap::new(),
            next_address: 0,
            held: None,
        };
        for (index, listens) in listening.iter().enumerate() {
            let mut edge = Edge::new(&world.identities, index, *listens);
            edge.links = vec![0; listening.len()];
            world.edges.push(edge);
            world.readdress(index);
        }
        world
    }

    pub(crate) fn sabotaged(&self, how: Sabotage) -> bool {
        self.sabotage == Some(how)
    }

    pub(crate) fn identities(&self) -> Arc<Identities> {
        self.identities.clone()
    }

    pub(crate) fn instant(&self) -> Instant {
        self.start + self.now
    }

    pub(crate) fn plan(&mut self, after: Duration, plan: Plan) {
        self.push(after, What::Plan(plan));
    }

    /// Has an edge learn what the controller then has.
    pub(crate) fn inform(&mut self, after: Duration, edge: usize, item: Item) {
        self.push(after, What::Learn(edge, item));
    }

    /// Has an edge learn all that the controller then has.
    pub(crate) fn sync_after(&mut self, after: Duration, edge: usize) {
        self.push(after, What::Sync(edge));
    }

    /// Runs on, up to `until` or to what was planned before.
    pub(crate) fn next(&mut self, until: Duration) -> Result<Option<Plan>, Violation> {
        while let Some(Reverse(due)) = self.queue.peek()
            && due.at <= until
        {
            let Some(Reverse(due)) = self.queue.pop() else { break };
            self.now = due.at;
            match due.what {
                What::Arrive { from, to, arrival } => self.arrive(from, to, arrival)?,
                What::Timer(edge) => self.timer(edge)?,
                What::Learn(edge, item) => self.learn(edge, item)?,
                What::Sync(edge) => self.sync(edge)?,
                What::Plan(plan) => return Ok(Some(plan)),
            }
        }
        self.now = until;
        Ok(None)
    }

    pub(crate) fn start(&mut self, edge: usize) {
        let now = (self.instant(), self.now);
        self.edges[edge].start(&self.identities, self.protection, now, self.seed);
        self.say(format_args!("{edge} starts"));
    }

    /// As `kill -9`: nothing is said to anybody.
    pub(crate) fn kill(&mut self, edge: usize) {
        let edge = &mut self.edges[edge];
        edge.mesh = None;
        edge.armed = None;
        edge.links.iter_mut().for_each(|link| *link += 1);
    }

    /// Gives an edge an address that nobody had.
    pub(crate) fn readdress(&mut self, edge: usize) -> SocketAddr {
        self.next_address += 1;
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + self.next_address);
        let address = SocketAddr::new(ip.into(), 58423);
        self.addresses.remove(&self.edges[edge].address);
        self.addresses.insert(address, edge);
        self.edges[edge].address = address;
        address
    }

    /// Has an edge learn all that the controller has, at once.
    pub(crate) fn sync(&mut self, edge: usize) -> Result<(), Violation> {
        for item in self.edges[edge].view.items(&self.truth) {
            self.learn(edge, item)?;
        }
        Ok(())
    }

    /// An edge learns something, if it is there and did not know.
    fn learn(&mut self, edge: usize, item: Item) -> Result<(), Violation> {
        let now = self.instant();
        let Self { edges, truth, identities, .. } = self;
        if edges[edge].mesh.is_none() || !edges[edge].view.lacks(truth, item) {
            return Ok(());
        }
        if matches!(item, Item::Denied(_)) && self.sabotage == Some(Sabotage::DeafToRevocations) {
            edges[edge].view.take(truth, item);
        } else {
            edges[edge].learn(identities, now, truth, item);
        }
        self.trace.note((edge, self.now));
        self.settle(edge)
    }

    /// The flow's packets go into its edge's TUN.
    pub(crate) fn send(
        &mut self,
        flow: &Flow,
        read: &crate::traffic::Read,
    ) -> Result<(), Violation> {
        let now = self.instant();
        let edge = &mut self.edges[flow.by];
        self.checker.sent(edge, flow.destination, read);
        let Some(mesh) = &mut edge.mesh else { return Ok(()) };
        mesh.handle_tun(now, &read.bytes);
        self.settle(flow.by)
    }

    /// After anything that an edge was given: what it tells and sends, and when it is to be woken.
    pub(crate) fn settle(&mut self, edge: usize) -> Result<(), Violation> {
        // Before anything is taken from it: what it holds is then the most.
        let Some(load) = self.edges[edge].mesh.as_ref().map(|mesh| mesh.load()) else {
            return Ok(());
        };
        self.events(edge);
        self.transmit(edge);
        self.events(edge);
        let start = self.start;
        let Some(mesh) = &self.edges[edge].mesh else { return Ok(()) };
        let at = mesh.poll_timeout().map(|at| at.saturating_duration_since(start).max(self.now));
        if at != self.edges[edge].armed {
            self.edges[edge].armed = at;
            if let Some(at) = at {
                self.push(at - self.now, What::Timer(edge));
            }
        }
        self.peak = higher(self.peak, load);
        within_bounds(&load, self.edges.len() - 1)
    }

    pub(crate) fn say(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.say(self.now, what);
    }

    fn push(&mut self, after: Duration, what: What) {
        self.sequence += 1;
        let due = Due { at: self.now + after, sequence: self.sequence, what };
        self.queue.push(Reverse(due));
    }

    fn timer(&mut self, edge: usize) -> Result<(), Violation> {
        let now = self.instant();
        if self.edges[edge].armed != Some(self.now) {
            return Ok(());
        }
        self.edges[edge].armed = None;
        let Some(mesh) = &mut self.edges[edge].mesh else { return Ok(()) };
        mesh.handle_timeout(now);
        self.settle(edge)
    }

    fn arrive(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        arrival: Arrival,
    ) -> Result<(), Violation> {
        let now = self.instant();
        let Some(&index) = self.addresses.get(&to) else { return Ok(()) };
        let Some(mesh) = &mut self.edges[index].mesh else { return Ok(()) };
        let received = Received {
            remote: from,
            local_ip: Some(to.ip()),
            ecn: arrival.ecn,
            stride: arrival.stride,
        };
        self.trace.note((self.now, from, to, arrival.bytes.len()));
        let mut writes = Vec::new();
        let mut write = |slices: &[std::io::IoSlice<'_>]| {
            writes.push(slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<_>>());
        };
        mesh.handle_datagrams(now, &received, BytesMut::from(&arrival.bytes[..]), &mut write);
        mesh.flush_tun(&mut write);
        for write in writes {
            self.written(index, write)?;
        }
        self.settle(index)
    }

    /// A write to an edge's TUN, as it is or sabotaged.
    fn written(&mut self, at: usize, mut write: Vec<u8>) -> Result<(), Violation> {
        match self.sabotage {
            Some(Sabotage::Duplicate) => self.check(at, &write)?,
            Some(Sabotage::Misdeliver) => return self.check((at + 1) % self.edges.len(), &write),
            Some(Sabotage::Damage) => *write.last_mut().unwrap() ^= 1,
            Some(Sabotage::Overtake) => match self.held.replace((at, write)) {
                Some((before, held)) if before == at => {
                    let (_, write) = self.held.take().unwrap();
                    self.check(at, &write)?;
                    return self.check(at, &held);
                }
                Some((before, held)) => return self.check(before, &held),
                None => return Ok(()),
            },
            Some(Sabotage::BelieveClaims | Sabotage::DeafToRevocations | Sabotage::LastingCut)
            | None => {}
        }
        self.check(at, &write)
    }

    fn check(&mut self, at: usize, write: &[u8]) -> Result<(), Violation> {
        let Self { checker, trace, now, edges, orderly, .. } = self;
        let mut digest = |id: crate::traffic::Id| trace.note((*now, at, id.flow, id.sequence));
        checker.written(&edges[at], write, *orderly, &mut digest)
    }

    fn events(&mut self, index: usize) {
        let Self { edges, trace, now, identities, .. } = self;
        let edge = &mut edges[index];
        let Some(mesh) = &mut edge.mesh else { return };
        while let Some(event) = mesh.poll_event() {
            match &event {
                Event::LinkUp { peer, remote } => {
                    edge.links[identities.index(peer)] += 1;
                    trace.say(*now, format_args!("{index} has a link to {peer} at {remote}"));
                }
                Event::LinkDown { peer, reason } => {
                    edge.links[identities.index(peer)] += 1;
                    trace.say(*now, format_args!("{index} has lost {peer}: {reason}"));
                }
                Event::Refused { remote, reason, .. } => {
                    trace.say(*now, format_args!("{index} and {remote}: {reason}"));
                }
            }
        }
    }

    fn transmit(&mut self, index: usize) {
        let now = self.instant();
        let mut buf = Vec::new();
        let from = self.edges[index].address;
        while let Some(mesh) = &mut self.edges[index].mesh
            && let Some(transmit) = mesh.poll_transmit(now, 44, &mut buf)
        {
            // A socket cannot send from an address that its host has no more.
            let gone = transmit.src_ip.is_some_and(|ip| ip != from.ip());
            let to = transmit.destination;
            let Some(&target) = self.addresses.get(&to).filter(|_| !gone) else { continue };
            let size = transmit.segment_size.unwrap_or(transmit.size).max(1);
            let batch = &buf[..transmit.size];
            let ect = transmit.ecn.is_some();
            for arrival in self.wire.carry((index, target), batch, size, ect) {
                self.push(arrival.after, What::Arrive { from, to, arrival });
            }
        }
    }
}

/// The larger of each.
pub(crate) fn higher(a: Load, b: Load) -> Load {
    Load {
        links: a.links.max(b.links),
        unfinished: a.unfinished.max(b.unfinished),
        queued: a.queued.max(b.queued),
        in_flight: a.in_flight.max(b.in_flight),
        events: a.events.max(b.events),
        responses: a.responses.max(b.responses),
    }
}

impl Due {
    fn key(&self) -> (Duration, u64) {
        (self.at, self.sequence)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}
