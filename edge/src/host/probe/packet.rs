//! Builds probes. Pure.

use std::net::IpAddr;

use cframe_packet::checksum::Sum;

use crate::host::driver::probes::{LARGE_LEN, Magic, TRAILER_LEN, V4_LEN, V6_LEN};

const TTL: u8 = 64;
const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const SYN: u8 = 0x02;

/// What a probe is to the host's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Udp,
    /// UDP as well, of the length of packets that carry data.
    Large,
    /// The first segment of a connection.
    TcpSyn,
    Echo,
}

/// A packet of a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    pub(super) from: (IpAddr, u16),
    /// For an echo request the port is not used.
    pub(super) to: (IpAddr, u16),
    /// Identifies it when it arrives.
    pub(super) id: u64,
}

impl Packet {
    /// The packet's bytes; `None` if its addresses are of different families.
    pub(super) fn bytes(&self, magic: Magic) -> Option<Vec<u8>> {
        let v6 = self.to.0.is_ipv6();
        let header_len = header_len(v6);
        let short = if v6 { V6_LEN } else { V4_LEN };
        let len = if self.kind == Kind::Large { LARGE_LEN } else { short };
        let mut packet = vec![0; len];
        let protocol = match (self.kind, v6) {
            (Kind::Udp | Kind::Large, _) => UDP,
            (Kind::TcpSyn, _) => TCP,
            (Kind::Echo, false) => ICMP,
            (Kind::Echo, true) => ICMP_V6,
        };
        let (header, body) = packet.split_at_mut(header_len);
        let at = short - header_len - TRAILER_LEN;
        body[at..at + 8].copy_from_slice(&magic);
        body[at + 8..at + TRAILER_LEN].copy_from_slice(&self.id.to_be_bytes());
        let pseudo = match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header[..2].copy_from_slice(&[0x45, 0]);
                header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                // Some firewalls drop packets whose identification is 0.
                header[4..6].copy_from_slice(&(self.id as u16 | 1).to_be_bytes());
                header[8..10].copy_from_slice(&[TTL, protocol]);
                header[12..16].copy_from_slice(&from.octets());
                header[16..20].copy_from_slice(&to.octets());
                let checksum = Sum::of(header).checksum();
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                Sum::of(&header[12..20])
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header[0] = 0x60;
                header[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
                header[6..8].copy_from_slice(&[protocol, TTL]);
                header[8..24].copy_from_slice(&from.octets());
                header[24..40].copy_from_slice(&to.octets());
                Sum::of(&header[8..40])
            }
            _ => return None,
        };
        let pseudo = pseudo.word(protocol.into()).word(body.len() as u16);
        self.write_transport(body, pseudo, v6);
        Some(packet)
    }

    /// The number under which the firewall counts these bytes of it: the second field of the transport's
    /// header, which is a port or, of an echo request, the checksum.
    pub(super) fn counted_as(&self, bytes: &[u8]) -> Option<u16> {
        let at = header_len(self.to.0.is_ipv6()) + 2;
        bytes.get(at..)?.first_chunk().map(|field| u16::from_be_bytes(*field))
    }

    fn write_transport(&self, body: &mut [u8], pseudo: Sum, v6: bool) {
        let (from, to) = (self.from.1.to_be_bytes(), self.to.1.to_be_bytes());
        let len = (body.len() as u16).to_be_bytes();
        let field = match self.kind {
            Kind::Udp | Kind::Large => {
                body[..2].copy_from_slice(&from);
                body[2..4].copy_from_slice(&to);
                body[4..6].copy_from_slice(&len);
                6
            }
            Kind::TcpSyn => {
                body[..2].copy_from_slice(&from);
                body[2..4].copy_from_slice(&to);
                body[4..8].copy_from_slice(&(self.id as u32).to_be_bytes());
                // Five words of header, and a window of 64,240 bytes as Linux has it.
                body[12..16].copy_from_slice(&[5 << 4, SYN, 0xfa, 0xf0]);
                16
            }
            Kind::Echo => {
                body[0] = if v6 { 128 } else { 8 };
                body[4..6].copy_from_slice(&from);
                body[6..8].copy_from_slice(&[0, 1]);
                2
            }
        };
        let sum = Sum::of(body);
        let has_pseudo_header = self.kind != Kind::Echo || v6;
        let sum = if has_pseudo_header { sum.and(pseudo) } else { sum };
        let checksum = match (self.kind, sum.checksum()) {
            // Zero would mean "no checksum" (RFC 768).
            (Kind::Udp | Kind::Large, 0) => 0xffff,
            (_, checksum) => checksum,
        };
        body[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn header_len(v6: bool) -> usize {
    if v6 { 40 } else { 20 }
}

#[cfg(test)]
mod tests {
    use cframe_packet::ip;

    use super::*;

    const MAGIC: Magic = [1, 2, 3, 4, 5, 6, 7, 8];

    fn packet(kind: Kind, from: &str, to: &str) -> Vec<u8> {
        let packet = Packet {
            kind,
            from: (from.parse().unwrap(), 40_000),
            to: (to.parse().unwrap(), 33_434),
            id: 0x1122_3344_5566_7788,
        };
        packet.bytes(MAGIC).unwrap()
    }

    #[test]
    fn a_probe_has_its_length_its_trailer_and_right_checksums() {
        for kind in [Kind::Udp, Kind::Large, Kind::TcpSyn, Kind::Echo] {
            let v4 = packet(kind, "10.1.0.9", "10.2.3.4");
            let len = |short| if kind == Kind::Large { LARGE_LEN } else { short };
            assert_eq!(v4.len(), len(V4_LEN));
            assert_eq!(Sum::of(&v4[..20]).fold(), 0xffff);
            let v6 = packet(kind, "fd00:1::9", "fd00:2::4");
            assert_eq!(v6.len(), len(V6_LEN));
            for (packet, header, short) in [(v4, 20, V4_LEN), (v6, 40, V6_LEN)] {
                let trailer = packet[..short].last_chunk::<16>().unwrap();
                assert_eq!((&trailer[..8], trailer[15]), (&MAGIC[..], 0x88));
                assert!(ip::Packet::parse(&packet).is_ok());
                let pseudo = match (kind, header) {
                    (Kind::Echo, 20) => Sum::default(),
                    (_, 20) => Sum::of(&packet[12..20]),
                    (_, _) => Sum::of(&packet[8..40]),
                };
                let protocol = if header == 20 { packet[9] } else { packet[6] };
                let pseudo = match (kind, header) {
                    (Kind::Echo, 20) => pseudo,
                    (_, _) => pseudo.word(protocol.into()).word((packet.len() - header) as u16),
                };
                assert_eq!(pseudo.and(Sum::of(&packet[header..])).fold(), 0xffff, "{kind:?}");
            }
        }
    }

    #[test]
    fn addresses_of_two_families_make_no_packet() {
        let ips = ("10.1.0.9".parse().unwrap(), "fd00::1".parse().unwrap());
        let packet = Packet { kind: Kind::Udp, from: (ips.0, 1), to: (ips.1, 1), id: 0 };
        assert_eq!(packet.bytes(MAGIC), None);
    }
}
