//! [`Mesh`]: its contract and its parts.

use std::time::{Duration, Instant};

use cframe_packet::{coalesce::Coalescer, split::Splitter};
use cframe_pki::identity::{Label, Role};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    admission::Admissions,
    config::{Config, ConfigError},
    counters::Counters,
    link::CloseCode,
    probe::PendingProbes,
    timers::{Key, Timers},
    verdict::Verdicts,
};

mod accept;
mod contest;
mod desired;
mod dial;
mod endpoint;
mod events;
mod lifecycle;
mod links;
mod peers;
mod probing;
mod receive;
mod send;
mod status;
mod wall_clock;
mod watch;

use endpoint::QuicEndpoint;
use events::EventQueue;
use links::Links;
use peers::Peers;
use wall_clock::WallClock;

pub use events::Event;
pub use receive::Received;
pub use status::{LinkStatus, Load};

/// The core of one edge.
///
/// # Contract
///
/// No call blocks, and none does I/O. `now` must never go backwards. The host runs a loop, and
/// calls in each turn:
///
/// 1. [`handle_datagrams`](Self::handle_datagrams) for everything that the UDP socket has, then
///    [`flush_tun`](Self::flush_tun) once; both give packets to be written to the TUN.
/// 2. [`handle_tun`](Self::handle_tun) for everything that the TUN has.
/// 3. [`handle_timeout`](Self::handle_timeout), if [`poll_timeout`](Self::poll_timeout) has passed.
/// 4. [`poll_transmit`](Self::poll_transmit) until it returns `None`, or until the socket's buffer is
///    full; then again when it has room.
/// 5. [`poll_event`](Self::poll_event) until it returns `None`.
/// 6. It waits for the socket, the TUN, or the time of [`poll_timeout`](Self::poll_timeout).
///
/// Desired state may change between any two of these calls
/// ([`set_peer`](Self::set_peer), [`set_prefix`](Self::set_prefix), [`recheck`](Self::recheck), …);
/// steps 4 and 5 return the resulting datagrams and events.
///
/// ```
/// # use std::{io::IoSlice, time::Instant};
/// # use bytes::BytesMut;
/// # use cframe_mesh::{Mesh, Received, Transmit};
/// # struct Host { batch: Vec<u8> }
/// # impl Host {
/// # fn receive(&mut self) -> Option<(Received, BytesMut)> { None }
/// # fn read_tun(&mut self) -> Option<Vec<u8>> { None }
/// # fn write_tun(&mut self, _: &[IoSlice<'_>]) {}
/// # fn send(&mut self, _: Transmit) {}
/// fn turn(&mut self, mesh: &mut Mesh, now: Instant) -> Option<Instant> {
///     while let Some((from, datagrams)) = self.receive() {
///         mesh.handle_datagrams(now, &from, datagrams, &mut |packet| self.write_tun(packet));
///     }
///     mesh.flush_tun(&mut |packet| self.write_tun(packet));
///     while let Some(read) = self.read_tun() {
///         mesh.handle_tun(now, &read);
///     }
///     mesh.handle_timeout(now);
///     while let Some(transmit) = mesh.poll_transmit(now, 44, &mut self.batch) {
///         self.send(transmit);
///     }
///     while let Some(event) = mesh.poll_event() {
///         println!("{event:?}");
///     }
///     mesh.poll_timeout()
/// }
/// # }
/// ```
// fields: the parts of the core.
pub struct Mesh {
    own: Own,
    quic: QuicEndpoint,
    links: Links,
    peers: Peers,
    verdicts: Verdicts,
    tun: TunSide,
    admissions: Admissions,
    timers: Timers,
    probes: PendingProbes,
    /// The timer in [`Timers`] at which links are looked at.
    watch_armed: Option<Instant>,
    events: EventQueue,
    counters: Counters,
    clock: WallClock,
    rng: StdRng,
}

/// This edge's identity.
struct Own {
    name: Label,
    namespace: Label,
    /// See [`Config::boot`].
    boot: [u8; 16],
}

/// Packets on their way from and to the TUN.
struct TunSide {
    splitter: Splitter,
    coalescer: Coalescer,
    /// Keeps senders from choosing flows that share a queue.
    flow_seed: u64,
}

impl Mesh {
    /// A core without peers. `unix` is the wall clock at `now`, since 1970.
    pub fn new(config: Config, now: Instant, unix: Duration) -> Result<Self, ConfigError> {
        let Role::Edge { namespace, name } = config.id.role.clone() else {
            return Err(ConfigError::NotAnEdge(config.id));
        };
        let mut rng = StdRng::from_seed(config.seed);
        let coalescer = Coalescer::new(rng.random(), config.offload.udp);
        let flow_seed = rng.random();
        Ok(Self {
            own: Own { name, namespace, boot: config.boot },
            quic: QuicEndpoint::new(&config)?,
            links: Links::default(),
            peers: Peers::default(),
            verdicts: Verdicts::new(&config.refused),
            tun: TunSide { splitter: Splitter::default(), coalescer, flow_seed },
            admissions: Admissions::default(),
            timers: Timers::default(),
            probes: PendingProbes::default(),
            watch_armed: None,
            events: EventQueue::default(),
            counters: Counters::default(),
            clock: WallClock::new(now, unix),
            rng,
        })
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// The latest time for the next [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Handles all deadlines that have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.timers.due(now) {
            match key {
                Key::Link(index) => self.link_timeout(now, index),
                Key::Peer(index) => self.dial(now, index),
                Key::Watch => self.watch_links(now),
            }
        }
    }

    /// Closes all links and makes no more. [`Self::poll_transmit`] returns the datagrams that close
    /// them at the peers.
    pub fn shutdown(&mut self, now: Instant) {
        self.quic.stop();
        for index in self.peers.indices() {
            self.peers[index].dialler.stop();
            self.arm_peer(index);
        }
        self.close_links(now, CloseCode::Shutdown, |_| true);
    }

    /// Packets carried and dropped since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
