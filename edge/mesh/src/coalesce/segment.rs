//! Which packets may be merged at all, and what of them matters for it.

use crate::packet::{FlowKey, Fragment, Packet, Sum, TCP, UDP};

/// What a packet is to the coalescer.
pub(super) enum Class {
    /// It can't be in any flow that is collected.
    Alone,
    /// It may belong to any flow between its addresses, as a fragment has no ports.
    Addresses(FlowKey),
    /// It belongs to a flow, but can't be merged.
    Flow(FlowKey),
    /// It can be merged with its neighbours.
    Segment(Segment),
}

/// A packet with payload whose headers are of the plain kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub(super) key: FlowKey,
    pub(super) transport: Transport,
    /// Length of the IP header: 20 or 40.
    pub(super) ip_len: usize,
    /// Length of all headers.
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    /// PSH: the receiver is to see the data now.
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
            TCP => tcp(packet.transport()),
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

/// What [`Segment`] needs of a TCP header; none if it forbids merging.
#[inline]
fn tcp(bytes: &[u8]) -> Option<(Transport, usize, bool)> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let len = usize::from(header[12] >> 4) * 4;
    let reserved = header[12] & 0x0f;
    if len < 20 || reserved != 0 || header[13] & !PSH != ACK {
        return None;
    }
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Some((Transport::Tcp { sequence }, len, header[13] & PSH != 0))
}

/// The same of a UDP header: one without checksum, or with another length than the packet's, is not merged.
#[inline]
fn udp_header(bytes: &[u8]) -> Option<(Transport, usize, bool)> {
    let &[_, _, _, _, a, b, c, d] = bytes.first_chunk()?;
    let right = usize::from(u16::from_be_bytes([a, b])) == bytes.len() && [c, d] != [0, 0];
    right.then_some((Transport::Udp, 8, false))
}
