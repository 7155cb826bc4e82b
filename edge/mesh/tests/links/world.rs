//! A deterministic world: several cores, one wire with latency, virtual time, real TLS.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use cframe_mesh::{
    Config, Congestion, Crypto, EcnCodepoint, EndpointKeys, Event, Mesh, Offload, Received,
};
use cframe_pki::{
    identity::{Label, PeerIdentity, SpiffeId},
    tls::{self, LiveCredentials},
    unix_now,
    verifier::{PeerVerifier, Policy, Refusal, Trust},
};

use crate::certificates::Authority;

pub(crate) const LATENCY: Duration = Duration::from_millis(10);

/// What one edge is made of, so that it can be started again.
pub(crate) struct Node {
    pub(crate) name: Label,
    pub(crate) address: SocketAddr,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) trust: Trust,
    /// Inner packets that came out, without their header.
    pub(crate) delivered: Vec<Vec<u8>>,
    pub(crate) events: Vec<Event>,
    /// What the verifier said, for the log.
    pub(crate) refusals: Arc<Mutex<Vec<String>>>,
    pub(crate) credentials: LiveCredentials,
    id: SpiffeId,
    starts: u8,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Flight {
    at: Instant,
    seq: u64,
    from: SocketAddr,
    to: SocketAddr,
    ect: bool,
    bytes: Vec<u8>,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) nodes: Vec<Node>,
    /// What edges that are started from now on take the underlay to carry.
    pub(crate) underlay_mtu: u16,
    /// Largest UDP payload that arrives.
    pub(crate) mtu: usize,
    /// Nothing arrives from or to these.
    pub(crate) dark: HashSet<SocketAddr>,
    /// Every datagram is marked on its way.
    pub(crate) congested: bool,
    /// What this one sends after its first so many datagrams is held, not lost.
    pub(crate) hold: Option<(SocketAddr, usize)>,
    held: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    pub(crate) latency: Duration,
    /// Bytes of the largest batch that was to leave at once.
    pub(crate) largest_batch: usize,
    /// Everything that was on the wire.
    pub(crate) captured: Vec<Vec<u8>>,
    wire: BinaryHeap<Reverse<Flight>>,
    seq: u64,
    pub(crate) authority: Authority,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            nodes: Vec::new(),
            mtu: 1472,
            dark: HashSet::new(),
            congested: false,
            hold: None,
            held: Vec::new(),
            latency: LATENCY,
            largest_batch: 0,
            underlay_mtu: 1500,
            captured: Vec::new(),
            wire: BinaryHeap::new(),
            seq: 0,
            authority: Authority::new(),
        }
    }

    /// Edges `a`, `b`, … of namespace `prod`, all of which know each other and their prefixes
    /// 10.<index>.0.0/16; those of `listening` have an endpoint.
    pub(crate) fn mesh_of(count: usize, listening: &[usize]) -> Self {
        let mut world = Self::new();
        for index in 0..count {
            world.add(&name_of(index), "prod", Duration::from_secs(86_400));
        }
        for index in 0..count {
            world.acquaint(index, listening);
        }
        world
    }

    pub(crate) fn add(&mut self, name: &str, namespace: &str, lifetime: Duration) -> usize {
        let index = self.nodes.len();
        let (id, credentials) = self.authority.issue(namespace, name, lifetime);
        let mut node = Node {
            name: name.parse().unwrap(),
            address: SocketAddr::new(Ipv4Addr::new(203, 0, 113, index as u8 + 1).into(), 58423),
            mesh: None,
            trust: self.authority.trust(),
            delivered: Vec::new(),
            events: Vec::new(),
            refusals: Arc::default(),
            credentials: LiveCredentials::new(credentials).unwrap(),
            id,
            starts: 0,
        };
        node.start(self.now, self.now - self.start, self.underlay_mtu);
        self.nodes.push(node);
        index
    }

    /// Tells edge `index` of all others.
    pub(crate) fn acquaint(&mut self, index: usize, listening: &[usize]) {
        let others: Vec<_> =
            self.nodes.iter().map(|node| (node.name.clone(), node.address)).collect();
        let now = self.now;
        let mesh = self.mesh(index);
        for (other, (name, address)) in others.iter().enumerate() {
            mesh.set_prefix(format!("10.{other}.0.0/16").parse().unwrap(), name);
            let addresses = if listening.contains(&other) { vec![*address] } else { vec![] };
            mesh.set_peer(now, name, addresses);
        }
    }

    pub(crate) fn mesh(&mut self, index: usize) -> &mut Mesh {
        self.nodes[index].mesh.as_mut().unwrap()
    }

    /// As `kill -9`: nothing is said to anybody.
    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].mesh = None;
    }

    pub(crate) fn restart(&mut self, index: usize, listening: &[usize]) {
        let (now, start, underlay_mtu) = (self.now, self.start, self.underlay_mtu);
        self.nodes[index].start(now, now - start, underlay_mtu);
        self.acquaint(index, listening);
    }

    /// Moves an edge to another address, as its kernel would tell it.
    pub(crate) fn move_to(&mut self, index: usize, address: &str) {
        self.nodes[index].address = address.parse().unwrap();
        let now = self.now;
        self.mesh(index).local_address_changed(now);
    }

    pub(crate) fn links_up(&self, index: usize) -> usize {
        self.nodes[index]
            .mesh
            .as_ref()
            .map_or(0, |mesh| mesh.links().filter(|link| link.up).count())
    }

    /// Lets an inner packet of `len` bytes enter at `from`, meant for `to`.
    pub(crate) fn send(&mut self, from: usize, to: usize, len: usize) {
        let packet = ping(addr(from, 1), addr(to, 1), len);
        self.send_raw(from, &packet);
    }

    pub(crate) fn send_raw(&mut self, from: usize, packet: &[u8]) {
        let now = self.now;
        let read = [&[0; 10][..], packet].concat();
        self.mesh(from).handle_tun(now, &read);
    }

    /// Runs until `done`, for at most `limit` of virtual time; how long it took.
    pub(crate) fn until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let begun = self.now;
        loop {
            self.transmit();
            if done(self) {
                return Some(self.now - begun);
            }
            let next = self.next_time()?.max(self.now);
            if next > begun + limit {
                self.now = begun + limit;
                return None;
            }
            self.now = next;
            self.arrive();
            let now = self.now;
            for node in &mut self.nodes {
                if let Some(mesh) = &mut node.mesh {
                    mesh.handle_timeout(now);
                }
                node.drain();
            }
        }
    }

    /// Lets go what was held.
    pub(crate) fn release(&mut self) {
        self.hold = None;
        for (from, to, bytes) in std::mem::take(&mut self.held) {
            self.seq += 1;
            let at = self.now + self.latency;
            self.wire.push(Reverse(Flight { at, seq: self.seq, from, to, ect: false, bytes }));
        }
    }

    /// A datagram from a stranger.
    pub(crate) fn inject(&mut self, to: usize, from: &str, bytes: Vec<u8>) {
        self.seq += 1;
        self.wire.push(Reverse(Flight {
            at: self.now + self.latency,
            seq: self.seq,
            from: from.parse().unwrap(),
            to: self.nodes[to].address,
            ect: false,
            bytes,
        }));
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let _ = self.until(time, |_| false);
    }

    /// Sends a packet every 10 ms until one arrives; how long that took.
    pub(crate) fn time_to_traffic(
        &mut self,
        from: usize,
        to: usize,
        limit: Duration,
    ) -> Option<Duration> {
        let begun = self.now;
        let before = self.nodes[to].delivered.len();
        while self.now < begun + limit {
            self.send(from, to, 100);
            if self
                .until(Duration::from_millis(10), |world| world.nodes[to].delivered.len() > before)
                .is_some()
            {
                return Some(self.now - begun);
            }
        }
        None
    }

    fn next_time(&self) -> Option<Instant> {
        let wire = self.wire.peek().map(|flight| flight.0.at);
        let timers = self.nodes.iter().filter_map(|node| node.mesh.as_ref()?.poll_timeout());
        timers.chain(wire).min()
    }

    fn transmit(&mut self) {
        let mut buf = Vec::new();
        for index in 0..self.nodes.len() {
            let from = self.nodes[index].address;
            let Some(mesh) = &mut self.nodes[index].mesh else { continue };
            while let Some(transmit) = mesh.poll_transmit(self.now, 44, &mut buf) {
                self.largest_batch = self.largest_batch.max(transmit.size);
                let size = transmit.segment_size.unwrap_or(transmit.size).max(1);
                for datagram in buf[..transmit.size].chunks(size) {
                    self.captured.push(datagram.to_vec());
                    let lost = datagram.len() > self.mtu
                        || self.dark.contains(&from)
                        || self.dark.contains(&transmit.destination);
                    // A socket cannot send from an address that its host has no more.
                    let gone = transmit.src_ip.is_some_and(|ip| ip != from.ip());
                    if lost || gone {
                        continue;
                    }
                    if let Some((sender, left)) = self.hold.as_mut().filter(|hold| hold.0 == from) {
                        if *left == 0 {
                            self.held.push((*sender, transmit.destination, datagram.to_vec()));
                            continue;
                        }
                        *left -= 1;
                    }
                    self.seq += 1;
                    self.wire.push(Reverse(Flight {
                        at: self.now + self.latency,
                        seq: self.seq,
                        from,
                        to: transmit.destination,
                        ect: transmit.ecn.is_some(),
                        bytes: datagram.to_vec(),
                    }));
                }
            }
            self.nodes[index].drain();
        }
    }

    fn arrive(&mut self) {
        while self.wire.peek().is_some_and(|flight| flight.0.at <= self.now) {
            let Some(Reverse(flight)) = self.wire.pop() else { return };
            let now = self.now;
            let congested = self.congested;
            let Some(node) = self.nodes.iter_mut().find(|node| node.address == flight.to) else {
                continue;
            };
            let ecn = match (flight.ect, congested) {
                (true, true) => Some(EcnCodepoint::Ce),
                (true, false) => Some(EcnCodepoint::Ect0),
                (false, _) => None,
            };
            let from = Received {
                remote: flight.from,
                local_ip: Some(flight.to.ip()),
                ecn,
                stride: flight.bytes.len(),
            };
            node.receive(now, &from, &flight.bytes);
        }
    }
}

impl Node {
    pub(crate) fn identity(&self) -> PeerIdentity {
        PeerIdentity::clone(&self.credentials.identity())
    }

    fn start(&mut self, now: Instant, elapsed: Duration, underlay_mtu: u16) {
        self.starts += 1;
        let policy =
            Policy::Edges { namespace: self.id.role.namespace().unwrap().clone(), not_self: None };
        let refusals = self.refusals.clone();
        let observer = move |refusal: &Refusal, _: Option<&SpiffeId>| {
            refusals.lock().unwrap().push(refusal.to_string());
        };
        let verifier =
            PeerVerifier::new(self.trust.clone(), policy).with_observer(Arc::new(observer));
        let config = Config {
            id: self.id.clone(),
            boot: [self.starts; 16],
            keys: EndpointKeys { reset: [7; 64], connection_id: 42, retry: [9; 32] },
            crypto: Crypto::tls(
                tls::link_client(&self.credentials, verifier.clone()),
                tls::link_server(&self.credentials, verifier),
            )
            .unwrap(),
            tun_mtu: 1500,
            underlay_mtu,
            congestion: Congestion::Transparent,
            offload: Offload { udp: false },
            seed: [self.starts; 32],
        };
        let unix = Duration::from_secs(unix_now()) + elapsed;
        self.mesh = Some(Mesh::new(config, now, unix).unwrap());
    }

    fn receive(&mut self, now: Instant, from: &Received, bytes: &[u8]) {
        let Self { mesh: Some(mesh), delivered, .. } = self else { return };
        let mut write = |slices: &[std::io::IoSlice<'_>]| {
            let whole: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            delivered.push(whole[10..].to_vec());
        };
        mesh.handle_datagrams(now, from, BytesMut::from(bytes), &mut write);
        mesh.flush_tun(&mut write);
    }

    fn drain(&mut self) {
        let Some(mesh) = &mut self.mesh else { return };
        while let Some(event) = mesh.poll_event() {
            self.events.push(event);
        }
    }
}

pub(crate) fn name_of(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

pub(crate) fn addr(site: usize, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, site as u8, 0, host)
}

/// An IPv4 packet of `len` bytes in all, of a protocol that nobody touches, with a valid header.
pub(crate) fn ping(from: impl Into<IpAddr>, to: impl Into<IpAddr>, len: usize) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from.into(), to.into()) else { panic!("IPv4 only") };
    let mut packet = vec![0xA5; len];
    packet[..20].fill(0);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 253; // RFC 3692: experiments
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let sum: u32 =
        packet[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet
}
