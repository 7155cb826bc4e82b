//! Reads of a TUN device.

use cframe_packet::{checksum::Sum, vnet::VnetHeader};

use crate::edges;

/// A flow whose reads have all the same size.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    /// One read: [`VnetHeader`] and packet, from edge 0's site to edge 1's.
    pub(crate) read: Vec<u8>,
    /// Inner packets of a read.
    pub(crate) packets: u64,
    /// Reads per turn.
    pub(crate) reads: usize,
}

/// Bytes in a packet of 1,400 bytes, the TUN's MTU.
const TCP_PAYLOAD: usize = 1360;

impl Load {
    pub(crate) fn super_packets() -> Self {
        let packets = 48;
        let gso =
            VnetHeader { gso_type: VnetHeader::GSO_TCPV4, gso_size: TCP_PAYLOAD as u16, ..tcp() };
        Self {
            name: "TCP, super-packets of 48 x 1400 bytes",
            read: read(gso, 6, tcp_header(), packets * TCP_PAYLOAD),
            packets: packets as u64,
            reads: 8,
        }
    }

    pub(crate) fn single_packets() -> Self {
        Self {
            name: "TCP, single packets of 1400 bytes",
            read: read(tcp(), 6, tcp_header(), TCP_PAYLOAD),
            packets: 1,
            reads: 64,
        }
    }

    pub(crate) fn small_packets() -> Self {
        const PAYLOAD: u16 = 64 - 28;
        let header = VnetHeader { csum_offset: 6, header_len: 28, ..tcp() };
        let mut udp = vec![0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 0];
        udp[4..6].copy_from_slice(&(8 + PAYLOAD).to_be_bytes());
        Self {
            name: "UDP, packets of 64 bytes",
            read: read(header, 17, udp, PAYLOAD.into()),
            packets: 1,
            reads: 64,
        }
    }

    pub(crate) fn all() -> [Self; 3] {
        [Self::super_packets(), Self::single_packets(), Self::small_packets()]
    }

    /// Turns the read into the next one of its flow.
    pub(crate) fn advance(&mut self) {
        let packet = &mut self.read[VnetHeader::LEN..];
        if packet[9] == 6 {
            let sequence = u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]);
            let sent = self.packets as u32 * TCP_PAYLOAD as u32;
            packet[24..28].copy_from_slice(&sequence.wrapping_add(sent).to_be_bytes());
        }
        let id = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(self.packets as u16);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[10..12].fill(0);
        let sum = Sum::of(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn tcp() -> VnetHeader {
    VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        csum_start: 20,
        csum_offset: 16,
        header_len: 40,
        ..VnetHeader::default()
    }
}

fn tcp_header() -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..4].copy_from_slice(&[0x9c, 0x40, 0x14, 0x51]);
    header[12..16].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
    header
}

/// A read as from the kernel, which leaves the transport checksum to us.
fn read(header: VnetHeader, protocol: u8, mut transport: Vec<u8>, payload: usize) -> Vec<u8> {
    let len = (transport.len() + payload) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    ip[2..4].copy_from_slice(&(20 + len).to_be_bytes());
    ip.extend(edges::host(0).octets());
    ip.extend(edges::host(1).octets());
    let checksum = Sum::of(&ip).checksum();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let partial = Sum::of(&ip[12..20]).word(protocol.into()).word(len).fold();
    let at = usize::from(header.csum_offset);
    transport[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    [&header.encode()[..], &ip, &transport, &vec![0x5a; payload]].concat()
}
