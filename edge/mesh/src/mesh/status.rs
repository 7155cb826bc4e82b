//! What a host can query: links, and the memory that the core uses.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cframe_pki::identity::Label;

use super::Mesh;
use crate::{
    link::{PathQuality, Traffic},
    peer::{Contested, Dialling, Down, Peer},
};

/// One peer's link, for `status`.
// fields: one row of `status`; the values have nothing to do with each other.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    pub peer: Label,
    pub up: bool,
    /// The peer's address on the underlay, or where it was last seen.
    pub remote: Option<SocketAddr>,
    /// Whether this edge dialled it.
    pub dialed: bool,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Largest UDP payload in bytes that the path is known to carry.
    pub path_mtu: u16,
    /// Largest inner packet in bytes that one datagram carries whole; larger ones are fragmented.
    pub largest_inner: usize,
    /// When the link came up.
    pub since: Option<Instant>,
    /// When the peer last acknowledged something: it is asked to about every other second. `None` without
    /// a link.
    pub acked: Option<Instant>,
    /// Since when there is no link.
    pub down: Option<Down>,
    /// What was seen since then.
    pub dialling: Dialling,
    /// When two processes with the peer's identity, or this edge's own, were last seen.
    pub contested: Option<Contested>,
    /// Whether the peer's path drops packets with ECN marks, so that it is used without.
    pub unmarked: bool,
    /// How the path treats packets.
    pub quality: PathQuality,
    /// When it ends because of its certificates.
    pub expires: Option<Instant>,
    /// Outer packets lost on the way to the peer.
    pub lost_packets: u64,
    /// Outer packets sent.
    pub sent_packets: u64,
    /// How often the path stopped carrying packets of its MTU.
    pub black_holes: u64,
    /// Inner packets.
    pub traffic: Traffic,
}

/// What a core holds in memory, apart from its tables.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Load {
    /// Connections in any phase, including closed ones that still answer late packets.
    pub links: usize,
    /// Accepted handshakes that are under way, or failed and not drained.
    pub unfinished: usize,
    /// Bytes in the queue of one link, the fullest.
    pub queued: usize,
    /// Bytes in flight on one link, the fullest; zero where congestion control has a window.
    pub in_flight: u64,
    /// Events that wait to be polled.
    pub events: usize,
    /// Answers of the endpoint that wait to be sent.
    pub responses: usize,
}

impl Mesh {
    pub fn load(&self) -> Load {
        let in_flight = self.links.iter().map(|(_, link)| link.in_flight().bytes);
        Load {
            links: self.links.iter().count(),
            unfinished: self.links.unfinished(),
            queued: self.peers.iter().map(|peer| peer.queue.bytes()).max().unwrap_or(0),
            in_flight: in_flight.max().unwrap_or(0),
            events: self.events.len(),
            responses: self.quic.responses(),
        }
    }

    /// Every peer's link, up or not, in the order in which the peers were added.
    pub fn links(&self) -> impl Iterator<Item = LinkStatus> + '_ {
        self.peers.iter().filter(|peer| peer.member).map(|peer| {
            let link = peer.current.and_then(|at| self.links.get(at));
            let Some(link) = link else { return LinkStatus::down(peer) };
            let path = link.conn.stats().path;
            LinkStatus {
                peer: peer.name.clone(),
                up: true,
                remote: Some(link.conn.remote_address()),
                dialed: link.is_dialed(),
                rtt: path.rtt,
                path_mtu: path.current_mtu,
                largest_inner: link.outgoing.largest_inner,
                since: Some(link.since),
                acked: Some(link.acked()),
                down: None,
                dialling: Dialling::default(),
                contested: peer.contested,
                unmarked: peer.unmarked,
                quality: link.checks.quality(),
                expires: link.certificate.expires,
                lost_packets: path.lost_packets,
                sent_packets: path.sent_packets,
                black_holes: path.black_holes_detected,
                traffic: link.traffic,
            }
        })
    }

    /// The shortest smoothed round-trip time of all links that are up.
    pub fn shortest_rtt(&self) -> Option<Duration> {
        let links = self.peers.iter().filter_map(|peer| self.links.get(peer.current?));
        links.map(|link| link.conn.rtt()).min()
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
            acked: None,
            down: peer.down,
            dialling: peer.dialling.clone(),
            contested: peer.contested,
            unmarked: peer.unmarked,
            quality: PathQuality::default(),
            expires: None,
            lost_packets: 0,
            sent_packets: 0,
            black_holes: 0,
            traffic: Traffic::default(),
        }
    }
}
