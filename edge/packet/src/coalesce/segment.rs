//! Which packets can be merged at all, and the fields that decide it.

use crate::{
    checksum::Sum,
    flow::FlowKey,
    ip::{Fragment, Packet, TCP, UDP},
};

/// How the coalescer treats a packet.
pub(super) enum Class {
    /// Not part of any flow that is collected.
    Alone,
    /// A fragment: it has no ports and may belong to any flow between its addresses.
    Addresses(FlowKey),
    /// Part of a flow, but it can't be merged.
    Flow(FlowKey),
    /// It can be merged with its neighbours.
    Segment(Segment),
}

/// A packet with payload, and without IP options or extension headers.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub(super) key: FlowKey,
    pub(super) transport: Transport,
    /// Length of the IP header: 20 or 40 bytes.
    pub(super) ip_len: usize,
    /// Length of the IP and transport header.
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    /// PSH: the receiver should get the data now.
    pub(super) push: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Transport {
    Tcp {
        sequence: u32,
    },
    #[default]
    Udp,
}

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

impl Class {
    #[inline]
    pub(super) fn of(bytes: &[u8], udp: bool) -> Self {
        let Ok(packet) = Packet::parse(bytes) else { return Self::Alone };
        if packet.fragment() != Fragment::Whole {
            return Self::Addresses(packet.flow());
        }
        let headers = match packet.protocol() {
            TCP => tcp_header(packet.transport()),
            UDP if udp => udp_header(packet.transport()),
            _ => return Self::Alone,
        };
        let key = packet.flow();
        let ip_len = if packet.is_ipv6() { 40 } else { 20 };
        let plain = packet.transport_offset() == ip_len;
        let Some((transport, len, push)) = headers.filter(|_| plain) else {
            return Self::Flow(key);
        };
        let header_len = ip_len + len;
        if header_len >= bytes.len() {
            return Self::Flow(key);
        }
        let payload_len = bytes.len() - header_len;
        Self::Segment(Segment { key, transport, ip_len, header_len, payload_len, push })
    }
}

impl Segment {
    /// Whether all checksums of the packet are right.
    pub(super) fn verify(&self, packet: &[u8]) -> bool {
        let (ip, transport) = packet.split_at(self.ip_len);
        let (addresses, ip_is_valid) = match ip.len() {
            20 => (&ip[12..], Sum::of(ip).fold() == 0xffff),
            _ => (&ip[8..], true),
        };
        let protocol = if self.transport == Transport::Udp { UDP } else { TCP };
        let pseudo = Sum::of(addresses).word(protocol.into()).word(transport.len() as u16);
        ip_is_valid && pseudo.and(Sum::of(transport)).fold() == 0xffff
    }
}

/// Sequence number, length and PSH flag of a TCP header; `None` if the packet must not be merged.
#[inline]
fn tcp_header(bytes: &[u8]) -> Option<(Transport, usize, bool)> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let len = usize::from(header[12] >> 4) * 4;
    let reserved = header[12] & 0x0f;
    if len < 20 || reserved != 0 || header[13] & !PSH != ACK {
        return None;
    }
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Some((Transport::Tcp { sequence }, len, header[13] & PSH != 0))
}

/// The fields of a UDP header, as [`tcp_header`]. A datagram without a checksum, or whose length is
/// not the packet's, is not merged.
#[inline]
fn udp_header(bytes: &[u8]) -> Option<(Transport, usize, bool)> {
    let &[_, _, _, _, a, b, c, d] = bytes.first_chunk()?;
    let mergeable = usize::from(u16::from_be_bytes([a, b])) == bytes.len() && [c, d] != [0, 0];
    mergeable.then_some((Transport::Udp, 8, false))
}
