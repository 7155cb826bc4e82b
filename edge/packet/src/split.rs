//! The send side of TUN offloads: super-packets of up to 64 KiB into ordinary packets.
//!
//! The kernel hands over TCP and UDP data that it left unsegmented (`TUNSETOFFLOAD`), after a
//! [`VnetHeader`] that says how to segment it. [`Splitter`] does what a network card would.

use std::{iter::FusedIterator, mem};

use bytes::Bytes;
use thiserror::Error;

use crate::{
    arena::Arena,
    checksum::{Sum, complete_checksum},
    ip::{Fragment, Packet, TCP, UDP},
    mss::{clamp_mss, is_syn},
    vnet::VnetHeader,
};

/// Why a packet from the TUN can't be sent. The caller drops it; no part of it was returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// An offload that was not enabled (UFO), or one that contradicts the packet.
    #[error("GSO type {0:#04x} doesn't fit the packet")]
    Type(u8),
    /// The transport header of a super-packet is truncated.
    #[error("the transport header of a super-packet is truncated")]
    Header,
    #[error("a super-packet with a segment size of zero")]
    Size,
    /// The checksum field (`csum_start`, `csum_offset`) is not where the transport protocol has it,
    /// or outside the packet.
    #[error("checksum field at {start} + {offset} is misplaced")]
    Checksum { start: u16, offset: u16 },
}

/// Turns each read of the TUN into ordinary packets, in memory that is reused.
#[derive(Debug, Default)]
pub struct Splitter {
    arena: Arena,
}

/// An iterator over whole packets of one flow, in order. They share one allocation, which lives as
/// long as the last of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packets {
    bytes: Bytes,
    /// Bytes of each packet; the last may be shorter.
    stride: usize,
}

impl Splitter {
    /// The complete IP packets that `packet`, read with `header`, consists of.
    ///
    /// A super-packet becomes packets with lengths, IPv4 ids, sequence numbers, flags and checksums
    /// of their own. The kernel sets the segment size to the flow's MSS. Any other packet is
    /// copied, its checksum completed if the kernel left that to us, and in a SYN the MSS lowered
    /// to what a packet of `max_packet` bytes has room for.
    #[inline]
    pub fn split(
        &mut self,
        header: &VnetHeader,
        packet: &Packet<'_>,
        max_packet: usize,
    ) -> Result<Packets, Malformed> {
        let Some(segments) = Segments::new(header, packet)? else {
            let bytes = copy_single(header, packet, max_packet, &mut self.arena)?;
            return Ok(Packets { stride: bytes.len(), bytes });
        };
        Ok(Packets { bytes: segments.write(&mut self.arena), stride: segments.segment_len(0) })
    }
}

impl Packets {
    /// Bytes of all packets that are left.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Iterator for Packets {
    type Item = Bytes;

    #[inline]
    fn next(&mut self) -> Option<Bytes> {
        if self.bytes.len() > self.stride {
            return Some(self.bytes.split_to(self.stride));
        }
        (!self.bytes.is_empty()).then(|| mem::take(&mut self.bytes))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.bytes.len().div_ceil(self.stride);
        (count, Some(count))
    }
}

impl ExactSizeIterator for Packets {}
impl FusedIterator for Packets {}

/// A copy of a packet that isn't a super-packet, ready to be sent.
fn copy_single(
    header: &VnetHeader,
    packet: &Packet<'_>,
    max_packet: usize,
    arena: &mut Arena,
) -> Result<Bytes, Malformed> {
    let buffer = arena.buffer(packet.bytes().len());
    buffer.extend_from_slice(packet.bytes());
    if header.flags & VnetHeader::NEEDS_CSUM != 0
        && !complete_checksum(buffer, header.csum_start.into(), header.csum_offset.into())
    {
        buffer.clear();
        return Err(misplaced(header));
    }
    if is_syn(packet) {
        clamp_mss(buffer, max_packet);
    }
    Ok(buffer.split().freeze())
}

fn misplaced(header: &VnetHeader) -> Malformed {
    Malformed::Checksum { start: header.csum_start, offset: header.csum_offset }
}

/// What the segments of one super-packet have in common.
struct Segments<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    /// Payload bytes of every segment but the last.
    size: usize,
    count: usize,
    /// Offset of the TCP or UDP header.
    transport: usize,
    ip: Ip,
    /// The transport checksum's sum without the fields that differ from segment to segment.
    base: Sum,
    protocol: Protocol,
}

enum Ip {
    V4 { id: u16, base: Sum },
    V6,
}

enum Protocol {
    Tcp { sequence: u32, offset_flags: u16 },
    Udp,
}

const FIN_PSH: u16 = 0x01 | 0x08;
const CWR: u16 = 0x80;

impl<'a> Segments<'a> {
    /// `None` for a packet that isn't a super-packet.
    #[inline]
    fn new(header: &VnetHeader, packet: &Packet<'a>) -> Result<Option<Self>, Malformed> {
        let fits = match header.gso_type {
            VnetHeader::GSO_NONE => return Ok(None),
            VnetHeader::GSO_UDP_L4 => packet.protocol() == UDP,
            tcp => {
                let family =
                    if packet.is_ipv6() { VnetHeader::GSO_TCPV6 } else { VnetHeader::GSO_TCPV4 };
                packet.protocol() == TCP && tcp & !VnetHeader::GSO_ECN == family
            }
        };
        if !fits || packet.fragment() != Fragment::Whole {
            return Err(Malformed::Type(header.gso_type));
        }
        Self::of_flow(header, packet).map(Some)
    }

    fn of_flow(header: &VnetHeader, packet: &Packet<'a>) -> Result<Self, Malformed> {
        let (bytes, transport) = (packet.bytes(), packet.transport_offset());
        let (protocol, len, field) = Protocol::of(packet)?;
        let size = usize::from(header.gso_size);
        if size == 0 {
            return Err(Malformed::Size);
        }
        let placed =
            (usize::from(header.csum_start), usize::from(header.csum_offset)) == (transport, field);
        if header.flags & VnetHeader::NEEDS_CSUM != 0 && !placed {
            return Err(misplaced(header));
        }
        let (headers, payload) = bytes.split_at(transport + len);
        let base = packet.pseudo_header().and(protocol.base_sum(&headers[transport..]));
        let count = payload.len().div_ceil(size).max(1);
        Ok(Self { headers, payload, size, count, transport, ip: Ip::of(packet), base, protocol })
    }

    fn payload_len(&self, index: usize) -> usize {
        self.size.min(self.payload.len() - index * self.size)
    }

    fn segment_len(&self, index: usize) -> usize {
        self.headers.len() + self.payload_len(index)
    }

    /// All segments in one buffer.
    fn write(&self, arena: &mut Arena) -> Bytes {
        let buffer = arena.buffer(self.count * self.headers.len() + self.payload.len());
        for index in 0..self.count {
            let start = buffer.len();
            let payload = &self.payload[index * self.size..][..self.payload_len(index)];
            buffer.extend_from_slice(self.headers);
            buffer.extend_from_slice(payload);
            let (ip, transport) = buffer[start..].split_at_mut(self.transport);
            self.ip.finish(ip, transport.len(), index);
            let header_len = self.headers.len() - self.transport;
            self.finish_transport(&mut transport[..header_len], payload, index);
        }
        buffer.split().freeze()
    }

    /// Writes the fields of a TCP or UDP header that differ from segment to segment.
    fn finish_transport(&self, header: &mut [u8], payload: &[u8], index: usize) {
        let len = (header.len() + payload.len()) as u16;
        let sum = self.base.and(Sum::of(payload)).word(len);
        match self.protocol {
            Protocol::Tcp { sequence, offset_flags } => {
                let sequence = sequence.wrapping_add((index * self.size) as u32).to_be_bytes();
                let not_first = if index > 0 { CWR } else { 0 };
                let not_last = if index + 1 < self.count { FIN_PSH } else { 0 };
                let word = offset_flags & !(not_first | not_last);
                header[4..8].copy_from_slice(&sequence);
                header[12..14].copy_from_slice(&word.to_be_bytes());
                let checksum = sum.and(Sum::of(&sequence)).word(word).checksum();
                header[16..18].copy_from_slice(&checksum.to_be_bytes());
            }
            Protocol::Udp => {
                header[4..6].copy_from_slice(&len.to_be_bytes());
                let checksum = match sum.word(len).checksum() {
                    0 => 0xffff,
                    checksum => checksum,
                };
                header[6..8].copy_from_slice(&checksum.to_be_bytes());
            }
        }
    }
}

impl Protocol {
    /// The protocol, the length of its header, and the offset of the checksum in the header.
    fn of(packet: &Packet<'_>) -> Result<(Self, usize, usize), Malformed> {
        let bytes = packet.transport();
        if packet.protocol() == UDP {
            return if bytes.len() < 8 { Err(Malformed::Header) } else { Ok((Self::Udp, 8, 6)) };
        }
        let header: &[u8; 20] = bytes.first_chunk().ok_or(Malformed::Header)?;
        let len = usize::from(header[12] >> 4) * 4;
        if len < 20 || len > bytes.len() {
            return Err(Malformed::Header);
        }
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let offset_flags = u16::from_be_bytes([header[12], header[13]]);
        Ok((Self::Tcp { sequence, offset_flags }, len, 16))
    }

    /// The sum of a header without the fields that [`Segments::finish_transport`] writes.
    fn base_sum(&self, header: &[u8]) -> Sum {
        match self {
            Self::Tcp { .. } => Sum::of(&header[..4])
                .and(Sum::of(&header[8..12]))
                .and(Sum::of(&header[14..16]))
                .and(Sum::of(&header[18..])),
            Self::Udp => Sum::of(&header[..4]),
        }
    }
}

impl Ip {
    fn of(packet: &Packet<'_>) -> Self {
        if packet.is_ipv6() {
            return Self::V6;
        }
        let header = &packet.bytes()[..packet.transport_offset()];
        let id = u16::from_be_bytes([header[4], header[5]]);
        let base = Sum::of(&header[..2]).and(Sum::of(&header[6..10])).and(Sum::of(&header[12..]));
        Self::V4 { id, base }
    }

    /// Writes the fields of an IP header that differ from segment to segment; `len` bytes follow
    /// it.
    fn finish(&self, header: &mut [u8], len: usize, index: usize) {
        match self {
            Self::V4 { id, base } => {
                let total = (header.len() + len) as u16;
                let id = id.wrapping_add(index as u16);
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[4..6].copy_from_slice(&id.to_be_bytes());
                let checksum = base.word(total).word(id).checksum();
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Self::V6 => {
                let len = (header.len() - 40 + len) as u16;
                header[4..6].copy_from_slice(&len.to_be_bytes());
            }
        }
    }
}
