//! Flows of inner packets. Each packet contains its flow's number and its own, and can be
//! identified.

use std::{net::IpAddr, sync::LazyLock};

use cframe_packet::{
    checksum::Sum,
    ip::{Packet, TCP, UDP},
    vnet::VnetHeader,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// IP protocol of packets that are never merged or split (RFC 3692: experiments).
const RAW: u8 = 253;
/// Bytes before the pattern: flow and sequence.
const ID_LEN: usize = 8;
/// The smallest inner packet in bytes.
const MIN_LEN: usize = 40;

/// Packets between two hosts.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) number: u32,
    /// The edge whose TUN they are read from.
    pub(crate) by: usize,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    protocol: u8,
    /// The number of its next packet.
    sequence: u32,
    tcp_sequence: u32,
    ip_id: u16,
}

/// One read of the TUN, and the packets that it consists of.
pub(crate) struct Read {
    pub(crate) bytes: Vec<u8>,
    pub(crate) packets: Vec<Id>,
}

/// Identifies a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Id {
    pub(crate) flow: u32,
    pub(crate) sequence: u32,
    pub(crate) len: usize,
}

impl Flow {
    pub(crate) fn new(
        number: u32,
        by: usize,
        (source, destination): (IpAddr, IpAddr),
        rng: &mut StdRng,
    ) -> Self {
        let protocol = [RAW, UDP, TCP][rng.random_range(0..3)];
        let (tcp_sequence, ip_id) = (rng.random(), rng.random());
        Self { number, by, source, destination, protocol, sequence: 0, tcp_sequence, ip_id }
    }

    /// The next read: mostly one packet, or several as one super-packet.
    pub(crate) fn next_read(&mut self, rng: &mut StdRng, tun_mtu: usize) -> Read {
        let room = tun_mtu - self.headers();
        let min = (MIN_LEN.saturating_sub(self.headers())).max(ID_LEN);
        let size = if rng.random_ratio(1, 4) { room } else { rng.random_range(min..=room) };
        let several = self.protocol != RAW && rng.random_ratio(1, 3);
        if !several {
            return self.packet(size, rng.random());
        }
        let count = rng.random_range(2..=(60_000 / (size + self.headers())).min(44));
        let last = rng.random_range(ID_LEN..=size.max(ID_LEN));
        self.super_packet(size.max(ID_LEN), count, last)
    }

    /// One packet of `len` bytes, or more if the headers need it.
    pub(crate) fn packet_of(&mut self, len: usize) -> Read {
        self.packet(len.saturating_sub(self.headers()).max(ID_LEN), false)
    }

    fn packet(&mut self, size: usize, partial: bool) -> Read {
        let partial = partial && self.protocol != RAW;
        let (payload, packets) = self.payload(&[size]);
        let header = if partial {
            self.partial_checksum(VnetHeader::GSO_NONE, 0)
        } else {
            VnetHeader::default()
        };
        self.wrap(header, &payload, packets, partial)
    }

    fn super_packet(&mut self, size: usize, count: usize, last: usize) -> Read {
        let mut sizes = vec![size; count - 1];
        sizes.push(last);
        let (payload, packets) = self.payload(&sizes);
        let gso_type = match (self.protocol, self.source) {
            (UDP, _) => VnetHeader::GSO_UDP_L4,
            (_, IpAddr::V4(_)) => VnetHeader::GSO_TCPV4,
            (_, IpAddr::V6(_)) => VnetHeader::GSO_TCPV6,
        };
        self.wrap(self.partial_checksum(gso_type, size), &payload, packets, true)
    }

    fn payload(&mut self, sizes: &[usize]) -> (Vec<u8>, Vec<Id>) {
        let mut payload = Vec::with_capacity(sizes.iter().sum());
        let ids = sizes.iter().map(|size| {
            let id = Id { flow: self.number, sequence: self.sequence, len: self.headers() + size };
            self.sequence += 1;
            payload.extend(id.flow.to_be_bytes());
            payload.extend(id.sequence.to_be_bytes());
            payload.extend_from_slice(pattern(id.sequence, size - ID_LEN));
            id
        });
        let ids = ids.collect();
        (payload, ids)
    }

    fn partial_checksum(&self, gso_type: u8, size: usize) -> VnetHeader {
        VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type,
            header_len: self.headers() as u16,
            gso_size: size as u16,
            csum_start: self.ip_header() as u16,
            csum_offset: if self.protocol == UDP { 6 } else { 16 },
        }
    }

    /// Puts headers before the payload. `partial`: the kernel left the checksum to be completed.
    fn wrap(
        &mut self,
        header: VnetHeader,
        payload: &[u8],
        packets: Vec<Id>,
        partial: bool,
    ) -> Read {
        let mut bytes = header.encode().to_vec();
        let transport = self.transport(payload, partial);
        bytes.extend(self.ip(transport.len() + payload.len()));
        bytes.extend(transport);
        bytes.extend(payload);
        self.tcp_sequence = self.tcp_sequence.wrapping_add(payload.len() as u32);
        self.ip_id = self.ip_id.wrapping_add(packets.len() as u16);
        Read { bytes, packets }
    }

    fn transport(&self, payload: &[u8], partial: bool) -> Vec<u8> {
        let ports = [4000_u16.to_be_bytes(), (self.number as u16).to_be_bytes()].concat();
        let len = (self.transport_header() + payload.len()) as u16;
        let (mut header, field) = match self.protocol {
            UDP => ([&ports[..], &len.to_be_bytes(), &[0, 0]].concat(), 6),
            TCP => {
                let sequence = self.tcp_sequence.to_be_bytes();
                let rest = [5 << 4, 0x10, 1, 0, 0, 0, 0, 0];
                ([&ports[..], &sequence, &[0, 0, 0, 7], &rest].concat(), 16)
            }
            _ => return Vec::new(),
        };
        let addresses = [octets(self.source), octets(self.destination)].concat();
        let pseudo = Sum::of(&addresses).word(self.protocol.into()).word(len);
        let sum = match partial {
            true => pseudo.fold(),
            false => match pseudo.and(Sum::of(&[&header, payload].concat())).checksum() {
                0 if self.protocol == UDP => 0xffff,
                sum => sum,
            },
        };
        header[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ip(&self, len: usize) -> Vec<u8> {
        // ECN-capable, so that a congestion mark does not drop the packet.
        const ECT0: u8 = 0b10;
        if self.source.is_ipv6() {
            let mut header = vec![0x60, ECT0 << 4, 0, 0];
            header.extend((len as u16).to_be_bytes());
            header.extend([self.protocol, 64]);
            header.extend([octets(self.source), octets(self.destination)].concat());
            return header;
        }
        let mut header = vec![0x45, ECT0];
        header.extend((20 + len as u16).to_be_bytes());
        header.extend(self.ip_id.to_be_bytes());
        header.extend([0x40, 0, 64, self.protocol, 0, 0]);
        header.extend([octets(self.source), octets(self.destination)].concat());
        let sum = Sum::of(&header).checksum();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn headers(&self) -> usize {
        self.ip_header() + self.transport_header()
    }

    fn ip_header(&self) -> usize {
        if self.source.is_ipv6() { 40 } else { 20 }
    }

    fn transport_header(&self) -> usize {
        match self.protocol {
            UDP => 8,
            TCP => 20,
            _ => 0,
        }
    }
}

/// The packet's id, if its pattern and checksums are unchanged.
pub(crate) fn identify(packet: &Packet<'_>) -> Option<Id> {
    let transport = packet.transport();
    let payload = match packet.protocol() {
        UDP => transport.get(8..)?,
        TCP => transport.get(20..)?,
        _ => transport,
    };
    let (flow, rest) = payload.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let id = Id {
        flow: u32::from_be_bytes(*flow),
        sequence: u32::from_be_bytes(*sequence),
        len: packet.bytes().len(),
    };
    let unchanged = rest == pattern(id.sequence, rest.len());
    (unchanged && has_valid_checksums(packet)).then_some(id)
}

fn has_valid_checksums(packet: &Packet<'_>) -> bool {
    let ip = packet.is_ipv6() || Sum::of(&packet.bytes()[..20]).fold() == 0xffff;
    if packet.protocol() == RAW {
        return ip;
    }
    let transport = packet.transport();
    let addresses = [octets(packet.source()), octets(packet.destination())].concat();
    let pseudo = Sum::of(&addresses).word(packet.protocol().into()).word(transport.len() as u16);
    ip && pseudo.and(Sum::of(transport)).fold() == 0xffff
}

/// A payload with different bytes at every place and in every packet.
fn pattern(sequence: u32, len: usize) -> &'static [u8] {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut bytes = vec![0; 1 << 16];
        StdRng::seed_from_u64(1).fill(&mut bytes[..]);
        bytes
    });
    let from = sequence as usize * 7 % (BYTES.len() / 2);
    &BYTES[from..from + len]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
