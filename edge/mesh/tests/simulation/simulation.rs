//! Edges, the wire between them and one queue of what is due, in virtual time.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use cframe_mesh::{Event, Load, Received};

use crate::{
    desired::{Desired, Item},
    edge::Edge,
    invariants::{Checker, Violation, within_bounds},
    schedule::Schedule,
    setup::{Sabotage, Setup},
    trace::Trace,
    traffic::{Flow, Id, Read},
    wire::{Arrival, Wire},
};

pub(crate) struct Simulation {
    pub(crate) setup: Setup,
    pub(crate) now: Duration,
    /// The instant from which virtual time is counted.
    start: Instant,
    pub(crate) edges: Vec<Edge>,
    /// The desired state of the controller.
    pub(crate) desired: Desired,
    pub(crate) wire: Wire,
    pub(crate) checker: Checker,
    pub(crate) trace: Trace,
    /// The most that any core held at any time.
    pub(crate) peak: Load,
    schedule: Schedule<Task>,
    addresses: Addresses,
    /// A write that is delayed for [`Sabotage::Reorder`].
    held: Option<(usize, Vec<u8>)>,
}

/// What a run plans for a later time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    Start(usize),
    Fault,
    RepairCut(u32),
    AddMember(usize),
    /// A flow sends.
    Flow(usize),
}

enum Task {
    Arrive {
        from: SocketAddr,
        to: SocketAddr,
        arrival: Arrival,
    },
    Timer(usize),
    /// An edge receives a change of the desired state.
    Learn(usize, Item),
    /// An edge receives the whole desired state.
    Sync(usize),
    Plan(Plan),
}

/// The addresses of edges on the underlay.
#[derive(Default)]
struct Addresses {
    edges: BTreeMap<SocketAddr, usize>,
    used: u32,
}

impl Simulation {
    pub(crate) fn new(setup: &Setup, listening: &[bool]) -> Self {
        let mut simulation = Self {
            setup: setup.clone(),
            now: Duration::ZERO,
            start: Instant::now(),
            edges: Vec::new(),
            desired: Desired::default(),
            wire: Wire::new(listening.len(), setup.seed),
            checker: Checker::default(),
            trace: Trace::new(setup.verbose),
            peak: Load::default(),
            schedule: Schedule::default(),
            addresses: Addresses::default(),
            held: None,
        };
        for (index, listens) in listening.iter().enumerate() {
            let mut edge = Edge::new(&setup.identities, index, *listens);
            edge.links = vec![0; listening.len()];
            simulation.edges.push(edge);
            simulation.readdress(index);
        }
        simulation
    }

    pub(crate) fn has(&self, sabotage: Sabotage) -> bool {
        self.setup.sabotage == Some(sabotage)
    }

    pub(crate) fn instant(&self) -> Instant {
        self.start + self.now
    }

    pub(crate) fn plan(&mut self, after: Duration, plan: Plan) {
        self.push(after, Task::Plan(plan));
    }

    /// Plans that an edge learns one thing of the desired state, as it is then.
    pub(crate) fn learn_after(&mut self, after: Duration, edge: usize, item: Item) {
        self.push(after, Task::Learn(edge, item));
    }

    /// Plans that an edge learns the whole desired state, as it is then.
    pub(crate) fn sync_after(&mut self, after: Duration, edge: usize) {
        self.push(after, Task::Sync(edge));
    }

    /// Runs up to `until`, or to the next plan that is due before.
    pub(crate) fn next(&mut self, until: Duration) -> Result<Option<Plan>, Violation> {
        while let Some((at, task)) = self.schedule.pop(until) {
            self.now = at;
            match task {
                Task::Arrive { from, to, arrival } => self.arrive(from, to, arrival)?,
                Task::Timer(edge) => self.fire_timer(edge)?,
                Task::Learn(edge, item) => self.learn(edge, item)?,
                Task::Sync(edge) => self.sync(edge)?,
                Task::Plan(plan) => return Ok(Some(plan)),
            }
        }
        self.now = until;
        Ok(None)
    }

    pub(crate) fn start(&mut self, edge: usize) {
        let now = (self.instant(), self.now);
        self.edges[edge].start(&self.setup, now);
        self.log(format_args!("{edge} starts"));
    }

    /// Stops an edge like `kill -9`: it sends nothing more.
    pub(crate) fn kill(&mut self, edge: usize) {
        let edge = &mut self.edges[edge];
        edge.mesh = None;
        edge.armed = None;
        edge.links.iter_mut().for_each(|link| *link += 1);
    }

    /// Gives an edge an address that no edge had before.
    pub(crate) fn readdress(&mut self, edge: usize) -> SocketAddr {
        let addresses = &mut self.addresses;
        addresses.used += 1;
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + addresses.used);
        let address = SocketAddr::new(ip.into(), 58423);
        addresses.edges.remove(&self.edges[edge].address);
        addresses.edges.insert(address, edge);
        self.edges[edge].address = address;
        address
    }

    /// Has an edge learn the whole desired state at once.
    pub(crate) fn sync(&mut self, edge: usize) -> Result<(), Violation> {
        for item in self.edges[edge].known.items(&self.desired) {
            self.learn(edge, item)?;
        }
        Ok(())
    }

    /// Has an edge learn one thing of the desired state, if it runs and did not know it.
    fn learn(&mut self, edge: usize, item: Item) -> Result<(), Violation> {
        let now = self.instant();
        let ignored = matches!(item, Item::Denied(_)) && self.has(Sabotage::IgnoreRevocations);
        let Self { edges, desired, setup, .. } = self;
        if edges[edge].mesh.is_none() || !edges[edge].known.differs(desired, item) {
            return Ok(());
        }
        edges[edge].known.copy_item(desired, item);
        if !ignored {
            edges[edge].apply(&setup.identities, now, item);
        }
        self.trace.record((edge, self.now));
        self.process_output(edge)
    }

    /// Sends the flow's packets into its edge's TUN.
    pub(crate) fn send(&mut self, flow: &Flow, read: &Read) -> Result<(), Violation> {
        let now = self.instant();
        let edge = &mut self.edges[flow.by];
        self.checker.record_sent(edge, flow.destination, read);
        let Some(mesh) = &mut edge.mesh else { return Ok(()) };
        mesh.handle_tun(now, &read.bytes);
        self.process_output(flow.by)
    }

    /// To be called after any input to an edge: takes its events and datagrams, and sets its timer.
    pub(crate) fn process_output(&mut self, edge: usize) -> Result<(), Violation> {
        // Before anything is taken from it: it holds most then.
        let Some(load) = self.edges[edge].mesh.as_ref().map(|mesh| mesh.load()) else {
            return Ok(());
        };
        self.take_events(edge);
        self.transmit(edge);
        self.take_events(edge);
        let start = self.start;
        let Some(mesh) = &self.edges[edge].mesh else { return Ok(()) };
        let at = mesh.poll_timeout().map(|at| at.saturating_duration_since(start).max(self.now));
        if at != self.edges[edge].armed {
            self.edges[edge].armed = at;
            if let Some(at) = at {
                self.schedule.push(at, Task::Timer(edge));
            }
        }
        self.peak = maximum(self.peak, load);
        within_bounds(&load, self.edges.len() - 1)
    }

    pub(crate) fn log(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.log(self.now, what);
    }

    fn push(&mut self, after: Duration, task: Task) {
        self.schedule.push(self.now + after, task);
    }

    fn fire_timer(&mut self, edge: usize) -> Result<(), Violation> {
        let now = self.instant();
        if self.edges[edge].armed != Some(self.now) {
            return Ok(());
        }
        self.edges[edge].armed = None;
        let Some(mesh) = &mut self.edges[edge].mesh else { return Ok(()) };
        mesh.handle_timeout(now);
        self.process_output(edge)
    }

    fn arrive(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        arrival: Arrival,
    ) -> Result<(), Violation> {
        let now = self.instant();
        let Some(&index) = self.addresses.edges.get(&to) else { return Ok(()) };
        let Some(mesh) = &mut self.edges[index].mesh else { return Ok(()) };
        let received = Received {
            remote: from,
            local_ip: Some(to.ip()),
            ecn: arrival.ecn,
            stride: arrival.stride,
        };
        self.trace.record((self.now, from, to, arrival.bytes.len()));
        let mut writes = Vec::new();
        let mut write = |slices: &[std::io::IoSlice<'_>]| {
            writes.push(slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<_>>());
        };
        mesh.handle_datagrams(now, &received, BytesMut::from(&arrival.bytes[..]), &mut write);
        mesh.flush_tun(&mut write);
        for write in writes {
            self.check_or_sabotage(index, write)?;
        }
        self.process_output(index)
    }

    /// Checks a write to an edge's TUN, or a sabotaged form of it.
    fn check_or_sabotage(&mut self, at: usize, mut write: Vec<u8>) -> Result<(), Violation> {
        match self.setup.sabotage {
            Some(Sabotage::Duplicate) => self.check(at, &write)?,
            Some(Sabotage::Misdeliver) => return self.check((at + 1) % self.edges.len(), &write),
            Some(Sabotage::Corrupt) => *write.last_mut().unwrap() ^= 1,
            Some(Sabotage::Reorder) => match self.held.replace((at, write)) {
                Some((before, held)) if before == at => {
                    let (_, write) = self.held.take().unwrap();
                    self.check(at, &write)?;
                    return self.check(at, &held);
                }
                Some((before, held)) => return self.check(before, &held),
                None => return Ok(()),
            },
            Some(Sabotage::BelieveClaims | Sabotage::IgnoreRevocations | Sabotage::NeverRepair)
            | None => {}
        }
        self.check(at, &write)
    }

    fn check(&mut self, at: usize, write: &[u8]) -> Result<(), Violation> {
        let Self { checker, trace, now, edges, wire, .. } = self;
        let mut delivered = |id: Id| trace.record((*now, at, id.flow, id.sequence));
        checker.check_write(&edges[at], write, wire.keeps_order, &mut delivered)
    }

    fn take_events(&mut self, index: usize) {
        let Self { edges, trace, now, setup, .. } = self;
        let edge = &mut edges[index];
        let Some(mesh) = &mut edge.mesh else { return };
        while let Some(event) = mesh.poll_event() {
            match &event {
                Event::LinkUp { peer, remote } => {
                    edge.links[setup.identities.index(peer)] += 1;
                    trace.log(*now, format_args!("{index} has a link to {peer} at {remote}"));
                }
                Event::LinkDown { peer, reason } => {
                    edge.links[setup.identities.index(peer)] += 1;
                    trace.log(*now, format_args!("{index} has lost {peer}: {reason}"));
                }
                Event::Refused { remote, reason, .. } => {
                    trace.log(*now, format_args!("{index} and {remote}: {reason}"));
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
            // A socket can't send from an address that its host no longer has.
            let gone = transmit.src_ip.is_some_and(|ip| ip != from.ip());
            let to = transmit.destination;
            let Some(&target) = self.addresses.edges.get(&to).filter(|_| !gone) else { continue };
            let size = transmit.segment_size.unwrap_or(transmit.size).max(1);
            let batch = &buf[..transmit.size];
            let ect = transmit.ecn.is_some();
            for arrival in self.wire.carry((index, target), batch, size, ect) {
                self.push(arrival.after, Task::Arrive { from, to, arrival });
            }
        }
    }
}

/// The maximum of each field.
pub(crate) fn maximum(a: Load, b: Load) -> Load {
    Load {
        links: a.links.max(b.links),
        unfinished: a.unfinished.max(b.unfinished),
        queued: a.queued.max(b.queued),
        in_flight: a.in_flight.max(b.in_flight),
        events: a.events.max(b.events),
        responses: a.responses.max(b.responses),
    }
}
