//! Several cores with real TLS on one wire with latency, in virtual time.

use std::{
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

use crate::{certificates::Authority, wire::Wire};

/// An edge that can be stopped and started again.
pub(crate) struct TestEdge {
    pub(crate) name: Label,
    pub(crate) address: SocketAddr,
    /// `None` while it is killed.
    pub(crate) mesh: Option<Mesh>,
    pub(crate) trust: Trust,
    /// Inner packets that it wrote to its TUN, without their header.
    pub(crate) delivered: Vec<Vec<u8>>,
    pub(crate) events: Vec<Event>,
    /// The refusals of its verifier.
    pub(crate) refusals: Arc<Mutex<Vec<String>>>,
    pub(crate) credentials: LiveCredentials,
    id: SpiffeId,
    starts: u8,
}

pub(crate) struct LinkNetwork {
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) edges: Vec<TestEdge>,
    /// The underlay MTU in the configuration of edges that are started from now on.
    pub(crate) underlay_mtu: u16,
    pub(crate) wire: Wire,
    pub(crate) authority: Authority,
}

impl LinkNetwork {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            edges: Vec::new(),
            underlay_mtu: 1500,
            wire: Wire::default(),
            authority: Authority::new(),
        }
    }

    /// Edges `a`, `b`, … of namespace `prod`, which all know each other and their prefixes
    /// 10.<index>.0.0/16; those in `listening` have an endpoint.
    pub(crate) fn of(count: usize, listening: &[usize]) -> Self {
        let mut net = Self::new();
        for index in 0..count {
            net.add(&name_of(index), "prod", Duration::from_secs(86_400));
        }
        for index in 0..count {
            net.introduce(index, listening);
        }
        net
    }

    pub(crate) fn add(&mut self, name: &str, namespace: &str, lifetime: Duration) -> usize {
        let index = self.edges.len();
        let (id, credentials) = self.authority.issue(namespace, name, lifetime);
        let mut edge = TestEdge {
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
        edge.start(self.now, self.now - self.start, self.underlay_mtu);
        self.edges.push(edge);
        index
    }

    /// Makes all others peers of edge `index`.
    pub(crate) fn introduce(&mut self, index: usize, listening: &[usize]) {
        let others: Vec<_> =
            self.edges.iter().map(|edge| (edge.name.clone(), edge.address)).collect();
        let now = self.now;
        let mesh = self.mesh(index);
        for (other, (name, address)) in others.iter().enumerate() {
            mesh.set_prefix(format!("10.{other}.0.0/16").parse().unwrap(), name);
            let addresses = if listening.contains(&other) { vec![*address] } else { vec![] };
            mesh.set_peer(now, name, addresses);
        }
    }

    pub(crate) fn mesh(&mut self, index: usize) -> &mut Mesh {
        self.edges[index].mesh.as_mut().unwrap()
    }

    /// Stops an edge like `kill -9`: it sends nothing more.
    pub(crate) fn kill(&mut self, index: usize) {
        self.edges[index].mesh = None;
    }

    pub(crate) fn restart(&mut self, index: usize, listening: &[usize]) {
        let (now, start, underlay_mtu) = (self.now, self.start, self.underlay_mtu);
        self.edges[index].start(now, now - start, underlay_mtu);
        self.introduce(index, listening);
    }

    /// Another process with the identity and keys of edge `index`, on a host of its own.
    pub(crate) fn clone_edge(&mut self, index: usize) -> usize {
        let copy = self.edges.len();
        let original = &self.edges[index];
        let mut edge = TestEdge {
            name: original.name.clone(),
            address: SocketAddr::new(Ipv4Addr::new(203, 0, 113, copy as u8 + 1).into(), 58423),
            mesh: None,
            trust: original.trust.clone(),
            delivered: Vec::new(),
            events: Vec::new(),
            refusals: Arc::default(),
            credentials: original.credentials.clone(),
            id: original.id.clone(),
            starts: 100,
        };
        edge.start(self.now, self.now - self.start, self.underlay_mtu);
        self.edges.push(edge);
        copy
    }

    /// Makes edge `other` a peer of edge `index`, at its address.
    pub(crate) fn introduce_one(&mut self, index: usize, other: usize) {
        let (name, address) = (self.edges[other].name.clone(), self.edges[other].address);
        let now = self.now;
        self.mesh(index).set_peer(now, &name, vec![address]);
    }

    /// Moves an edge to another address, as after a report from its kernel.
    pub(crate) fn move_to(&mut self, index: usize, address: &str) {
        self.edges[index].address = address.parse().unwrap();
        let now = self.now;
        self.mesh(index).local_address_changed(now);
    }

    pub(crate) fn cut_off(&mut self, index: usize) {
        let address = self.edges[index].address;
        self.wire.cut_off.insert(address);
    }

    pub(crate) fn links_up(&self, index: usize) -> usize {
        self.edges[index]
            .mesh
            .as_ref()
            .map_or(0, |mesh| mesh.links().filter(|link| link.up).count())
    }

    /// Sends an inner packet of `len` bytes from the site of one edge to that of another.
    pub(crate) fn send(&mut self, from: usize, to: usize, len: usize) {
        let packet = ping(addr(from, 1), addr(to, 1), len);
        self.send_raw(from, &packet);
    }

    pub(crate) fn send_raw(&mut self, from: usize, packet: &[u8]) {
        let now = self.now;
        let read = [&[0; 10][..], packet].concat();
        self.mesh(from).handle_tun(now, &read);
    }

    /// Runs until `done`, for at most `limit` of virtual time; the time that it took.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let started = self.now;
        loop {
            self.transmit();
            if done(self) {
                return Some(self.now - started);
            }
            let next = self.next_time()?.max(self.now);
            if next > started + limit {
                self.now = started + limit;
                return None;
            }
            self.now = next;
            self.receive();
            let now = self.now;
            for edge in &mut self.edges {
                if let Some(mesh) = &mut edge.mesh {
                    mesh.handle_timeout(now);
                }
                edge.collect_events();
            }
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let _ = self.run_until(time, |_| false);
    }

    /// Sends a packet every 10 ms until one arrives; the time that it took.
    pub(crate) fn time_to_traffic(
        &mut self,
        from: usize,
        to: usize,
        limit: Duration,
    ) -> Option<Duration> {
        let started = self.now;
        let before = self.edges[to].delivered.len();
        while self.now < started + limit {
            self.send(from, to, 100);
            let arrived = |net: &Self| net.edges[to].delivered.len() > before;
            if self.run_until(Duration::from_millis(10), arrived).is_some() {
                return Some(self.now - started);
            }
        }
        None
    }

    /// Sends a datagram from an address that is no edge's.
    pub(crate) fn inject(&mut self, to: usize, from: &str, bytes: Vec<u8>) {
        let to = self.edges[to].address;
        self.wire.push(self.now, from.parse().unwrap(), to, false, bytes);
    }

    fn next_time(&self) -> Option<Instant> {
        let timers = self.edges.iter().filter_map(|edge| edge.mesh.as_ref()?.poll_timeout());
        timers.chain(self.wire.next_arrival()).min()
    }

    fn transmit(&mut self) {
        let mut buf = Vec::new();
        for edge in &mut self.edges {
            let Some(mesh) = &mut edge.mesh else { continue };
            while let Some(transmit) = mesh.poll_transmit(self.now, 44, &mut buf) {
                self.wire.carry(self.now, edge.address, &transmit, &buf);
            }
            edge.collect_events();
        }
    }

    fn receive(&mut self) {
        while let Some(flight) = self.wire.arrived(self.now) {
            let Some(edge) = self.edges.iter_mut().find(|edge| edge.address == flight.to) else {
                continue;
            };
            let ecn = match (flight.ect, self.wire.congested) {
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
            edge.receive(self.now, &from, &flight.bytes);
        }
    }
}

impl TestEdge {
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
            refused: Vec::new(),
            offload: Offload { udp: false },
            seed: self.seed(),
        };
        let unix = Duration::from_secs(unix_now()) + elapsed;
        self.mesh = Some(Mesh::new(config, now, unix).unwrap());
    }

    /// Another one for each process.
    fn seed(&self) -> [u8; 32] {
        let mut seed = [self.starts; 32];
        seed[0] = self.name.as_str().as_bytes()[0];
        seed
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

    fn collect_events(&mut self) {
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

/// An IPv4 packet of `len` bytes with a valid header, of a protocol that no code interprets.
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
