//! [`Mesh`]: desired state in, and the parts that its other files act on.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_packet::{coalesce::Coalescer, split::Splitter};
use cframe_pki::identity::{Label, PeerIdentity, Role};
use ipnet::IpNet;
use quinn_proto::{ClientConfig, EcnCodepoint, Endpoint, Transmit};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    admission::Admissions,
    config::{self, Config, ConfigError, Congestion},
    congestion::Total,
    counters::{Counters, Reason},
    link::{Code, Link, Phase, Traffic},
    peer::{Peer, Renew},
    table::PrefixTable,
    timers::{Key, Timers},
    verdict::{Owner, Passed},
};

mod data;
mod handshakes;
mod links;

/// After a round trip from its move, what a dialler's link hears came over the new path.
const MIGRATION_SETTLES: Duration = Duration::from_millis(20);
/// After a renewal, links are made anew spread over this time.
const RENEWAL_SPREAD: Duration = Duration::from_secs(20);

/// Links whose peers have lost their root are begun to be made anew within this time, …
const REPLACE_SPREAD: Duration = Duration::from_secs(1);
/// … and have this long for it.
const REPLACE_LIMIT: Duration = Duration::from_secs(5);

/// The core of one edge.
///
/// Every method that takes `now` expects it never to go back. None blocks.
pub struct Mesh {
    name: Label,
    namespace: Label,
    boot: [u8; 16],
    tun_mtu: u16,
    underlay_mtu: u16,
    congestion: Congestion,
    endpoint: Endpoint,
    client: ClientConfig,
    server: quinn_proto::ServerConfig,
    /// By the number of their connection handle.
    links: Vec<Option<Box<Link>>>,
    peers: Vec<Peer>,
    peer_index: HashMap<Label, u32>,
    table: PrefixTable<Owner>,
    passed: Passed,
    timers: Timers,
    /// Links that may have something to send, each once.
    ready: VecDeque<usize>,
    /// Answers of the endpoint itself: Retry, stateless reset, refusal.
    responses: VecDeque<(Transmit, Vec<u8>)>,
    admissions: Admissions,
    /// Accepted handshakes that are not finished, or failed and are not gone.
    unfinished: usize,
    /// Of all links.
    in_flight: Total,
    /// Datagrams with a long header that were taken at this instant.
    greetings: (Instant, u32),
    answer_next: bool,
    splitter: Splitter,
    /// Keeps senders from choosing flows that share a queue.
    flow_seed: u64,
    coalescer: Coalescer,
    events: VecDeque<Event>,
    counters: Counters,
    /// The wall clock at an instant; certificates are dated by it.
    wall: (Instant, Duration),
    rng: StdRng,
    stopped: bool,
}

/// What a host logs, and reports upward.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// Traffic flows to this peer, from now on over this address.
    LinkUp {
        /// Its name.
        peer: Label,
        /// Its address on the underlay.
        remote: SocketAddr,
    },
    /// No traffic flows to this peer any more.
    LinkDown {
        /// Its name.
        peer: Label,
        /// Why, for a person.
        reason: String,
    },
    /// A handshake failed because one side refused the other.
    Refused {
        /// The other side's address.
        remote: SocketAddr,
        /// The peer meant to be there, where this edge dialled.
        peer: Option<Label>,
        /// Which side refused, and why, for a person.
        reason: String,
    },
}

/// Where UDP datagrams came from, as the socket tells.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The sender.
    pub remote: SocketAddr,
    /// The address of this host that they came to.
    pub local_ip: Option<IpAddr>,
    /// The ECN field of the outer IP header.
    pub ecn: Option<EcnCodepoint>,
    /// Bytes of each datagram, where the kernel coalesced several (`UDP_GRO`); the last may be
    /// shorter.
    pub stride: usize,
}

/// One link, for `status`.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// The peer.
    pub peer: Label,
    /// Whether traffic flows.
    pub up: bool,
    /// The peer's address on the underlay, last known.
    pub remote: Option<SocketAddr>,
    /// Whether this edge dialled it.
    pub dialed: bool,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Largest UDP payload that the path is known to carry.
    pub path_mtu: u16,
    /// Largest inner packet that one datagram carries whole; larger ones go in fragments.
    pub largest_inner: usize,
    /// When the link came up.
    pub since: Option<Instant>,
    /// When it ends by its certificates.
    pub expires: Option<Instant>,
    /// Outer packets lost on the way to the peer.
    pub lost_packets: u64,
    /// Outer packets sent.
    pub sent_packets: u64,
    /// Times that the path's MTU fell into a black hole.
    pub black_holes: u64,
    /// Inner packets.
    pub traffic: Traffic,
}

/// What a core holds in memory, apart from its tables.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Load {
    /// Connections in any phase, those that are closed and answer stragglers included.
    pub links: usize,
    /// Accepted handshakes that are not finished, or failed and are not gone.
    pub unfinished: usize,
    /// Bytes of inner packets that wait in the queue of one link, the fullest.
    pub queued: usize,
    /// Bytes in flight on one link, the fullest; zero where congestion control has a window.
    pub in_flight: u64,
    /// Events that wait to be polled.
    pub events: usize,
    /// Answers of the endpoint that wait to be sent.
    pub responses: usize,
}

impl Mesh {
    /// A mesh of nobody yet. `unix` is the wall clock at `now`, since 1970.
    ///
    /// # Errors
    /// When the configuration cannot be used for links.
    pub fn new(config: Config, now: Instant, unix: Duration) -> Result<Self, ConfigError> {
        let Role::Edge { namespace, name } = config.id.role.clone() else {
            return Err(ConfigError::NotAnEdge(config.id));
        };
        let endpoint = config::endpoint(&config)?;
        let server = config::server(&config);
        let client = config::client(&config);
        let mut rng = StdRng::from_seed(config.seed);
        let coalescer = Coalescer::new(rng.random(), config.offload.udp);
        Ok(Self {
            name,
            namespace,
            boot: config.boot,
            tun_mtu: config.tun_mtu,
            underlay_mtu: config.underlay_mtu,
            congestion: config.congestion,
            endpoint: Endpoint::new(Arc::new(endpoint), Some(Arc::new(server.clone())), true, None),
            client,
            server,
            links: Vec::new(),
            peers: Vec::new(),
            peer_index: HashMap::new(),
            table: PrefixTable::new(),
            passed: Passed::default(),
            timers: Timers::default(),
            ready: VecDeque::new(),
            responses: VecDeque::new(),
            admissions: Admissions::default(),
            unfinished: 0,
            in_flight: Total::default(),
            greetings: (now, 0),
            answer_next: false,
            splitter: Splitter::default(),
            flow_seed: rng.random(),
            coalescer,
            events: VecDeque::new(),
            counters: Counters::default(),
            wall: (now, unix),
            rng,
            stopped: false,
        })
    }

    /// Makes `name` a peer that may be dialled at `addresses`, in order of preference. With none it
    /// has to dial this edge.
    pub fn set_peer(&mut self, now: Instant, name: &Label, addresses: Vec<SocketAddr>) {
        if *name == self.name || self.stopped {
            return;
        }
        let index = self.peer(name);
        let peer = &mut self.peers[index as usize];
        if peer.member && peer.addresses == addresses {
            return;
        }
        let moved = peer.member && peer.current.is_some();
        peer.member = true;
        peer.addresses = addresses;
        if !moved {
            peer.dial_at(now);
            self.arm_peer(index);
        }
    }

    /// Makes `name` a stranger: its link closes at once.
    pub fn remove_peer(&mut self, now: Instant, name: &Label) {
        let Some(&index) = self.peer_index.get(name) else { return };
        let peer = &mut self.peers[index as usize];
        peer.member = false;
        peer.addresses.clear();
        peer.last_remote = None;
        peer.stop_dialling();
        self.arm_peer(index);
        self.close_links(now, Code::Removed, |link| link.peer == Some(index));
    }

    /// Gives the prefix to `owner`, which may be this edge.
    pub fn set_prefix(&mut self, prefix: IpNet, owner: &Label) {
        self.passed = Passed::default();
        let owner = if *owner == self.name { Owner::Own } else { Owner::Peer(self.peer(owner)) };
        self.table.insert(prefix, owner);
    }

    /// Gives the prefix to nobody.
    pub fn remove_prefix(&mut self, prefix: &IpNet) {
        self.passed = Passed::default();
        self.table.remove(prefix);
    }

    /// The TUN's MTU changed; `mtu` is in bytes.
    ///
    /// Links made from now on look for a path that carries it whole.
    pub fn set_tun_mtu(&mut self, mtu: u16) {
        self.tun_mtu = mtu;
        self.configure_links();
    }

    /// Changes congestion control for links made from now on.
    pub fn set_congestion(&mut self, congestion: Congestion) {
        self.congestion = congestion;
        self.configure_links();
    }

    fn configure_links(&mut self) {
        let transport =
            Arc::new(config::transport(self.underlay_mtu, self.tun_mtu, self.congestion));
        self.client.transport_config(transport.clone());
        self.server.transport_config(transport);
        self.endpoint.set_server_config(Some(Arc::new(self.server.clone())));
    }

    /// Closes every link whose peer `allowed` no longer finds acceptable: after a change of the
    /// trust bundle or the deny-list. Handshakes under way begin anew: TLS may have judged their
    /// peer by the former trust already.
    pub fn recheck(&mut self, now: Instant, allowed: &mut dyn FnMut(&PeerIdentity) -> bool) {
        let mut begun = Vec::new();
        self.close_links(now, Code::Removed, |link| match &link.identity {
            Some(identity) => !allowed(identity),
            None => {
                begun.extend(link.peer);
                true
            }
        });
        for index in begun {
            self.peers[index as usize].dial_at(now);
            self.arm_peer(index);
        }
    }

    /// Makes the links of the peers that `stale` chooses anew, before the old ones end: after a root has
    /// left the trust bundle, for links whose peers showed a certificate below it. A peer that has no
    /// other has its link for a few seconds more, and no longer.
    pub fn replace_links(&mut self, now: Instant, stale: &mut dyn FnMut(&PeerIdentity) -> bool) {
        for index in 0..self.links.len() {
            let Some(link) = self.links[index].as_mut() else { continue };
            let (Some(identity), Some(peer_index)) = (&link.identity, link.peer) else { continue };
            if !stale(identity) {
                continue;
            }
            if matches!(link.phase, Phase::Handshaking | Phase::Closed) {
                continue;
            }
            // One that waits for the peer's hello too: it may be the one in use on the other side.
            let limit = now + REPLACE_LIMIT;
            link.outdated = true;
            link.expires = Some(link.expires.map_or(limit, |at| at.min(limit)));
            let at = link.deadline();
            self.timers.arm(Key::Link(index), &mut link.armed, at);
            let spread = REPLACE_SPREAD.mul_f64(self.rng.random());
            self.peers[peer_index as usize].renew_at(now + spread, Renew::Always);
            self.arm_peer(peer_index);
        }
    }

    /// Tells the wall clock, now and then, so that certificates are read by the right date even
    /// after it was set. Links that stand keep their end on the monotonic clock.
    pub fn set_wall_clock(&mut self, now: Instant, unix: Duration) {
        self.wall = (now, unix);
    }

    /// The underlay address of this host changed. Only a QUIC client can move its end of a
    /// connection (RFC 9000 §9), so links that were dialled follow, and peers whose link was
    /// accepted are dialled.
    pub fn local_address_changed(&mut self, now: Instant) {
        if self.stopped {
            return;
        }
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            let link = peer.current.and_then(|at| self.links[at].as_mut());
            match link {
                None => peer.dial_at(now),
                Some(link) if link.dialed => {
                    link.conn.local_address_changed();
                    // What is heard before a round trip has passed came to the old address.
                    let settled = now + link.conn.rtt() + MIGRATION_SETTLES;
                    peer.renew_at(settled, Renew::Moved);
                    let at = link.handle.0;
                    self.mark_ready(at);
                }
                Some(_) => peer.renew_at(now, Renew::Always),
            }
            self.arm_peer(index as u32);
        }
    }

    /// This edge has a new certificate: links are made anew, at leisure, before the old one ends.
    pub fn credentials_renewed(&mut self, now: Instant) {
        if self.stopped {
            return;
        }
        for index in 0..self.peers.len() {
            let spread = RENEWAL_SPREAD.mul_f64(self.rng.random());
            let peer = &mut self.peers[index];
            let Some(link) = peer.current.and_then(|at| self.links[at].as_ref()) else { continue };
            let left = link.expires.map_or(spread, |at| at.saturating_duration_since(now) / 2);
            peer.renew_at(now + spread.min(left), Renew::Always);
            self.arm_peer(index as u32);
        }
    }

    /// Closes all links and makes no more; [`Self::poll_transmit`] has the farewells.
    pub fn shutdown(&mut self, now: Instant) {
        self.stopped = true;
        for index in 0..self.peers.len() {
            self.peers[index].stop_dialling();
            self.arm_peer(index as u32);
        }
        self.close_links(now, Code::Shutdown, |_| true);
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.timers.due(now) {
            match key {
                Key::Link(index) => self.link_timeout(now, index),
                Key::Peer(index) => self.dial(now, index),
            }
        }
    }

    /// What happened to packets.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is held in memory now.
    pub fn load(&self) -> Load {
        let links = self.links.iter().flatten();
        let in_flight = links.clone().map(|link| link.in_flight().bytes);
        Load {
            links: links.count(),
            unfinished: self.unfinished,
            queued: self.peers.iter().map(|peer| peer.queue.bytes()).max().unwrap_or(0),
            in_flight: in_flight.max().unwrap_or(0),
            events: self.events.len(),
            responses: self.responses.len(),
        }
    }

    /// Every peer's link, up or not, in the order in which the peers became known.
    pub fn links(&self) -> impl Iterator<Item = LinkStatus> + '_ {
        self.peers.iter().filter(|peer| peer.member).map(|peer| {
            let link = peer.current.and_then(|at| self.links[at].as_ref());
            let Some(link) = link else { return LinkStatus::down(peer) };
            let stats = link.conn.stats();
            LinkStatus {
                peer: peer.name.clone(),
                up: true,
                remote: Some(link.conn.remote_address()),
                dialed: link.dialed,
                rtt: stats.path.rtt,
                path_mtu: stats.path.current_mtu,
                largest_inner: link.largest_inner,
                since: Some(link.since),
                expires: link.expires,
                lost_packets: stats.path.lost_packets,
                sent_packets: stats.path.sent_packets,
                black_holes: stats.path.black_holes_detected,
                traffic: link.traffic,
            }
        })
    }

    /// The shortest smoothed round trip of the links that are up.
    pub fn shortest_rtt(&self) -> Option<Duration> {
        let links = self.peers.iter().filter_map(|peer| self.links[peer.current?].as_ref());
        links.map(|link| link.conn.rtt()).min()
    }

    /// The index of a peer, member or not.
    fn peer(&mut self, name: &Label) -> u32 {
        if let Some(&index) = self.peer_index.get(name) {
            return index;
        }
        let index = u32::try_from(self.peers.len()).expect("peers are counted in thousands");
        self.peers.push(Peer::new(name.clone()));
        self.peer_index.insert(name.clone(), index);
        index
    }

    fn close_links(&mut self, now: Instant, code: Code, mut which: impl FnMut(&Link) -> bool) {
        for index in 0..self.links.len() {
            let chosen = |link: &Link| link.phase != Phase::Closed && which(link);
            if self.links[index].as_deref().is_some_and(chosen) {
                self.close(now, index, code);
            }
        }
    }

    fn arm_peer(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        let at = peer.next_dial();
        self.timers.arm(Key::Peer(index), &mut peer.armed, at);
    }

    fn refused(&mut self, remote: SocketAddr, peer: Option<Label>, reason: String) {
        self.counters.drop(Reason::HandshakeRefused);
        self.event(Event::Refused { remote, peer, reason });
    }

    /// Events are for people; a flood of refused handshakes must not fill memory with them.
    fn event(&mut self, event: Event) {
        const MAX_EVENTS: usize = 4096;
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }
}

impl LinkStatus {
    fn down(peer: &Peer) -> Self {
        Self {
            peer: peer.name.clone(),
            up: false,
            remote: peer.last_remote,
            dialed: false,
            rtt: Duration::ZERO,
            path_mtu: 0,
            largest_inner: 0,
            since: None,
            expires: None,
            lost_packets: 0,
            sent_packets: 0,
            black_holes: 0,
            traffic: Traffic::default(),
        }
    }
}
