//! Memory and CPU time of a thousand idle links of one edge.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use cframe_mesh::{Mesh, Received};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    counting::{self, Account, Trace},
    edges::{self, EdgeBuilder},
    sites::by_site,
};

/// Time between the starts of two edges.
const START_INTERVAL: Duration = Duration::from_millis(7);
/// Handshakes and path MTU discovery are over after this time.
const SETTLE_TIME: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);
/// The number of links at the end for which every allocation is traced.
const TRACED: u16 = 16;
/// Locations that are printed.
const PRINTED: usize = 14;
const HUB: u16 = u16::MAX;

pub(crate) fn table(links: u16) {
    let mut star = Star::new(links);
    let before = counting::tally(Account::Left).held;
    for index in 0..links {
        if index + TRACED == links {
            star.run_until(star.now + SETTLE_TIME);
            counting::trace(Trace::HeldBy(Account::Left));
        }
        star.add(index);
        star.run_until(star.now + START_INTERVAL);
    }
    star.run_until(star.now + SETTLE_TIME);
    let traced = counting::trace(Trace::Off);
    let up = star.hub.links().filter(|link| link.up).count();
    assert_eq!(up, usize::from(links), "of {links} links");
    let held = counting::tally(Account::Left).held - before;
    println!("{links} idle links of one edge, half of them dialled\n");
    println!("  memory: {:.1} KiB a link at the hub (target 40)", kib(held) / f64::from(links));
    let mut sites = by_site(&traced);
    sites.sort_by_key(|site| Reverse(site.bytes));
    let sum: u64 = sites.iter().map(|site| site.bytes).sum();
    println!("    of the last {TRACED}, {:.1} KiB a link:", kib(sum as i64) / f64::from(TRACED));
    for site in sites.iter().take(PRINTED) {
        println!(
            "    {:6.2} KiB in {:4.1} allocations: {}",
            kib(site.bytes as i64) / f64::from(TRACED),
            site.allocations as f64 / f64::from(TRACED),
            site.name
        );
    }
    star.work = Work::default();
    star.run_until(star.now + MINUTE);
    star.work.print();
}

fn kib(bytes: i64) -> f64 {
    bytes as f64 / 1024.0
}

/// A hub, and edges that are connected only to it.
struct Star {
    now: Instant,
    builder: EdgeBuilder,
    hub: Mesh,
    edges: Vec<Mesh>,
    flights: BinaryHeap<Reverse<Flight>>,
    /// Timers of edges; outdated entries are skipped.
    timers: BinaryHeap<Reverse<(Instant, u16)>>,
    sequence: u64,
    buffer: Vec<u8>,
    work: Work,
}

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Flight {
    at: Instant,
    sequence: u64,
    from: u16,
    to: u16,
    bytes: Vec<u8>,
}

/// Totals of the hub.
#[derive(Debug, Default)]
struct Work {
    cpu: Duration,
    turns: u64,
    received: u64,
    sent: u64,
}

impl Work {
    fn print(&self) {
        let seconds = MINUTE.as_secs_f64();
        println!(
            "  time: {:.2} % of a core (target 1.5), without system calls. Per second:",
            100.0 * self.cpu.as_secs_f64() / seconds
        );
        println!(
            "    {:.0} turns, {:.0} datagrams received, {:.0} sent",
            self.turns as f64 / seconds,
            self.received as f64 / seconds,
            self.sent as f64 / seconds
        );
    }
}

impl Star {
    fn new(links: u16) -> Self {
        let now = Instant::now();
        let builder = EdgeBuilder::new(now);
        let config = builder.config(HUB);
        let hub = counting::charge(Account::Left, || builder.mesh(HUB, config));
        Self {
            now,
            builder,
            hub,
            edges: Vec::with_capacity(links.into()),
            flights: BinaryHeap::new(),
            timers: BinaryHeap::new(),
            sequence: 0,
            buffer: Vec::with_capacity(64 << 10),
            work: Work::default(),
        }
    }

    /// Adds an edge, which dials the hub or is dialled by it.
    fn add(&mut self, index: u16) {
        let dials = index.is_multiple_of(2);
        let mut mesh = self.builder.mesh(index, self.builder.config(index));
        edges::add_peer(&mut mesh, self.now, HUB, dials);
        self.edges.push(mesh);
        counting::charge(Account::Left, || edges::add_peer(&mut self.hub, self.now, index, !dials));
        self.transmit(index);
        self.transmit(HUB);
    }

    /// Runs up to `end` of virtual time.
    fn run_until(&mut self, end: Instant) {
        loop {
            let flight = self.flights.peek().map(|flight| flight.0.at);
            let timer = self.timers.peek().map(|timer| timer.0.0);
            let hub = self.hub.poll_timeout();
            let Some(next) = [flight, timer, hub].into_iter().flatten().min() else { break };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.hub_turn();
            self.edges_turn();
        }
        self.now = end;
    }

    /// Everything that is due at the hub, as one turn of its loop.
    fn hub_turn(&mut self) {
        let mut arrived = Vec::new();
        while self
            .flights
            .peek()
            .is_some_and(|flight| flight.0.at <= self.now && flight.0.to == HUB)
        {
            arrived.extend(self.flights.pop());
        }
        if arrived.is_empty() && self.hub.poll_timeout().is_none_or(|at| at > self.now) {
            return;
        }
        self.work.turns += 1;
        self.work.received += arrived.len() as u64;
        let (before, now) = (thread_time(), self.now);
        counting::charge(Account::Left, || {
            for Reverse(flight) in &arrived {
                receive(&mut self.hub, now, flight);
            }
            self.hub.handle_timeout(now);
        });
        self.work.cpu += thread_time() - before;
        self.transmit(HUB);
    }

    fn edges_turn(&mut self) {
        while self
            .flights
            .peek()
            .is_some_and(|flight| flight.0.at <= self.now && flight.0.to != HUB)
        {
            let Some(Reverse(flight)) = self.flights.pop() else { return };
            receive(&mut self.edges[usize::from(flight.to)], self.now, &flight);
            self.transmit(flight.to);
        }
        while self.timers.peek().is_some_and(|timer| timer.0.0 <= self.now) {
            let Some(Reverse((at, index))) = self.timers.pop() else { return };
            if self.edges[usize::from(index)].poll_timeout() == Some(at) {
                self.edges[usize::from(index)].handle_timeout(self.now);
                self.transmit(index);
            }
        }
    }

    fn transmit(&mut self, from: u16) {
        let Self { hub, edges, buffer, work, .. } = self;
        loop {
            let transmit = if from == HUB {
                let before = thread_time();
                let transmit =
                    counting::charge(Account::Left, || hub.poll_transmit(self.now, 44, buffer));
                work.cpu += thread_time() - before;
                transmit
            } else {
                edges[usize::from(from)].poll_transmit(self.now, 44, buffer)
            };
            let Some(transmit) = transmit else { break };
            let to = edge_at(transmit.destination);
            let size = transmit.segment_size.unwrap_or(transmit.size).max(1);
            for datagram in buffer[..transmit.size].chunks(size) {
                work.sent += u64::from(from == HUB);
                self.sequence += 1;
                let at = self.now + latency(if from == HUB { to } else { from });
                // 1,472 bytes of payload are what the path carries.
                if datagram.len() <= 1472 {
                    let bytes = datagram.to_vec();
                    let flight = Flight { at, sequence: self.sequence, from, to, bytes };
                    self.flights.push(Reverse(flight));
                }
            }
        }
        let mesh = if from == HUB { hub } else { &mut edges[usize::from(from)] };
        counting::charge(if from == HUB { Account::Left } else { Account::Benchmark }, || {
            while mesh.poll_event().is_some() {}
        });
        if from != HUB {
            self.timers.extend(mesh.poll_timeout().map(|at| Reverse((at, from))));
        }
    }
}

/// 5 to 60 ms, so that datagrams of different edges rarely arrive together, as in a deployment.
fn latency(index: u16) -> Duration {
    Duration::from_micros(5_000 + u64::from(index) * 7_919 % 55_000)
}

fn edge_at(address: SocketAddr) -> u16 {
    match address.ip() {
        IpAddr::V4(ip) => u16::from_be_bytes([ip.octets()[2], ip.octets()[3]]),
        IpAddr::V6(_) => unreachable!("all of them are IPv4"),
    }
}

fn receive(mesh: &mut Mesh, now: Instant, flight: &Flight) {
    let from = Received {
        remote: edges::address(flight.from),
        local_ip: None,
        ecn: None,
        stride: flight.bytes.len(),
    };
    mesh.handle_datagrams(now, &from, BytesMut::from(&flight.bytes[..]), &mut |_| {});
    mesh.flush_tun(&mut |_| {});
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
