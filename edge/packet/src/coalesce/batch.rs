//! Consecutive segments of one flow, which become one super-packet.

use std::io::IoSlice;

use bytes::Bytes;

use super::{
    MAX_SEGMENTS,
    segment::{Segment, Transport},
    write_alone,
};
use crate::{
    checksum::Sum,
    flow::FlowKey,
    ip::{TCP, UDP},
    vnet::VnetHeader,
};

/// The longest headers that are merged: IPv6 and a TCP header with 40 bytes of options.
const MAX_HEADERS: usize = 40 + 60;
const MAX_PACKET: usize = 65_535;
const PSH: u8 = 0x08;

/// An unused batch has no packets.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    packets: Vec<Bytes>,
    /// The first segment: all but the last have its payload size, and all have its headers.
    first: Segment,
    /// Payload bytes of all segments.
    len: usize,
    /// The IPv4 id of the last packet, and how much it grew from packet to packet.
    id: u16,
    step: Option<u16>,
    /// Whether the first packet's checksums are known to be right.
    verified: bool,
    push: bool,
}

impl Batch {
    #[inline]
    pub(super) fn key(&self) -> &FlowKey {
        &self.first.key
    }

    /// Starts a new batch with one packet.
    #[inline]
    pub(super) fn start(&mut self, packet: Bytes, segment: Segment) {
        self.len = segment.payload_len;
        self.id = ip_id(&packet);
        self.step = None;
        self.verified = false;
        self.push = false;
        self.first = segment;
        self.packets.push(packet);
    }

    /// Whether the packet continues the batch. Its checksums are not checked.
    #[inline]
    pub(super) fn accepts(&self, packet: &[u8], segment: &Segment) -> bool {
        let Some(first) = self.packets.first() else { return false };
        let headers = self.first.header_len;
        self.packets.len() < MAX_SEGMENTS
            && segment.header_len == headers
            && segment.payload_len <= self.first.payload_len
            && headers + self.len + segment.payload_len <= MAX_PACKET
            && self.continues(segment.transport)
            && self.same_ip(first, packet)
            && self.same_transport(&first[..headers], packet)
    }

    /// Whether the first packet's checksums are right.
    pub(super) fn verify(&mut self) -> bool {
        self.verified =
            self.verified || self.packets.first().is_some_and(|packet| self.first.verify(packet));
        self.verified
    }

    /// Adds a packet that the batch accepts; true if no other can follow.
    #[inline]
    pub(super) fn add(&mut self, packet: Bytes, segment: &Segment) -> bool {
        let id = ip_id(&packet);
        self.step = Some(id.wrapping_sub(self.id));
        self.id = id;
        self.len += segment.payload_len;
        self.push = segment.push;
        self.packets.push(packet);
        segment.push || segment.payload_len < self.first.payload_len
    }

    /// Writes the super-packet and empties the batch.
    #[inline]
    pub(super) fn write(&mut self, write: &mut impl FnMut(&[IoSlice<'_>])) {
        if let [packet] = &self.packets[..] {
            write_alone(packet, write);
        } else if let Some(first) = self.packets.first() {
            let header_len = self.first.header_len;
            let mut headers = [0; VnetHeader::LEN + MAX_HEADERS];
            let headers = &mut headers[..VnetHeader::LEN + header_len];
            headers[VnetHeader::LEN..].copy_from_slice(&first[..header_len]);
            self.write_headers(headers);
            let mut slices = [IoSlice::new(&[]); 1 + MAX_SEGMENTS];
            slices[0] = IoSlice::new(headers);
            for (slice, packet) in slices[1..].iter_mut().zip(&self.packets) {
                *slice = IoSlice::new(&packet[header_len..]);
            }
            write(&slices[..=self.packets.len()]);
        }
        self.packets.clear();
    }

    #[inline]
    fn continues(&self, transport: Transport) -> bool {
        match (self.first.transport, transport) {
            (Transport::Udp, Transport::Udp) => true,
            (Transport::Tcp { sequence: first }, Transport::Tcp { sequence }) => {
                sequence == first.wrapping_add(self.len as u32)
            }
            _ => false,
        }
    }

    /// Whether the IP headers can be merged: same type of service with ECN, TTL, flags and flow
    /// label. IPv4 ids must grow by one, as they do when the kernel segments the super-packet, or
    /// stay the same where "don't fragment" makes them meaningless (RFC 6864 §4.1).
    #[inline]
    fn same_ip(&self, first: &[u8], packet: &[u8]) -> bool {
        if self.first.ip_len == 40 {
            return first[..4] == packet[..4] && first[7] == packet[7];
        }
        let step = ip_id(packet).wrapping_sub(self.id);
        let dont_fragment = first[6] & 0x40 != 0;
        let steady = self.step.is_none_or(|known| step == known);
        steady
            && (step == 1 || step == 0 && dont_fragment)
            && first[..2] == packet[..2]
            && first[6..9] == packet[6..9]
    }

    /// Whether the TCP headers have the same acknowledgement, window, urgent pointer and options.
    /// Their flags are ACK and PSH at most: see [`Class::of`](super::segment::Class::of).
    #[inline]
    fn same_transport(&self, first: &[u8], packet: &[u8]) -> bool {
        if self.first.transport == Transport::Udp {
            return true;
        }
        let (first, packet) = (&first[self.first.ip_len..], &packet[self.first.ip_len..]);
        first[8..12] == packet[8..12]
            && first[14..16] == packet[14..16]
            && first[18..] == packet[18..first.len()]
    }

    /// Turns the first packet's headers into the super-packet's, and writes the [`VnetHeader`].
    fn write_headers(&self, buffer: &mut [u8]) {
        let (vnet, headers) = buffer.split_at_mut(VnetHeader::LEN);
        let (ip, transport) = headers.split_at_mut(self.first.ip_len);
        let transport_len = (transport.len() + self.len) as u16;
        let (addresses, gso_type) = if ip.len() == 20 {
            ip[2..4].copy_from_slice(&(20 + transport_len).to_be_bytes());
            ip[10..12].fill(0);
            let checksum = Sum::of(ip).checksum();
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            (&ip[12..], VnetHeader::GSO_TCPV4)
        } else {
            ip[4..6].copy_from_slice(&transport_len.to_be_bytes());
            (&ip[8..], VnetHeader::GSO_TCPV6)
        };
        let (protocol, gso_type, field) = if self.first.transport == Transport::Udp {
            transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
            (UDP, VnetHeader::GSO_UDP_L4, 6)
        } else {
            transport[13] |= if self.push { PSH } else { 0 };
            (TCP, gso_type, 16)
        };
        let partial = Sum::of(addresses).word(protocol.into()).word(transport_len).fold();
        transport[field..field + 2].copy_from_slice(&partial.to_be_bytes());
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type,
            header_len: self.first.header_len as u16,
            gso_size: self.first.payload_len as u16,
            csum_start: self.first.ip_len as u16,
            csum_offset: field as u16,
        };
        vnet.copy_from_slice(&header.encode());
    }
}

/// The IPv4 id. For IPv6 the result has no meaning and is not compared.
#[inline]
fn ip_id(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[4], packet[5]])
}
