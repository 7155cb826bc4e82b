//! ICMP errors of a router about packets that are too large for the next hop.

use std::net::IpAddr;

use cframe_packet::checksum::Sum;
use cframe_packet::ip::{Fragment, Packet};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// "Fragmentation needed" (RFC 792, RFC 1191) or "packet too big" (RFC 4443 §3.2) about `packet`,
/// from the router's address of the same family; `None` if a router must not send one.
pub(super) fn too_big(packet: &[u8], mtu: u16, gateways: &[IpAddr]) -> Option<Vec<u8>> {
    let parsed = Packet::parse(packet).ok()?;
    if parsed.fragment() == Fragment::Later || is_error(&parsed) {
        return None;
    }
    let to = parsed.source();
    let from = gateways.iter().find(|from| from.is_ipv4() == to.is_ipv4())?;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            Some(frag_needed(packet, mtu, from.octets(), to.octets()))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            Some(packet_too_big(packet, mtu, from.octets(), to.octets()))
        }
        _ => None,
    }
}

/// Errors about ICMP errors are not sent (RFC 1122 §3.2.2, RFC 4443 §2.4 e).
fn is_error(packet: &Packet<'_>) -> bool {
    match (packet.protocol(), packet.transport().first()) {
        // Echo, echo reply and timestamps are not errors.
        (ICMP, Some(kind)) => ![0, 8, 13, 14].contains(kind),
        (ICMPV6, Some(kind)) => *kind < 128,
        _ => false,
    }
}

fn frag_needed(packet: &[u8], mtu: u16, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(576 - 28)];
    let mut answer = vec![0; 28 + quoted.len()];
    let (ip, icmp) = answer.split_at_mut(20);
    icmp[..2].copy_from_slice(&[3, 4]);
    icmp[6..8].copy_from_slice(&mtu.to_be_bytes());
    icmp[8..].copy_from_slice(quoted);
    let checksum = Sum::of(icmp).checksum();
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&length(20 + icmp.len()));
    ip[8..10].copy_from_slice(&[64, ICMP]);
    ip[12..16].copy_from_slice(&from);
    ip[16..20].copy_from_slice(&to);
    let checksum = Sum::of(ip).checksum();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    answer
}

fn packet_too_big(packet: &[u8], mtu: u16, from: [u8; 16], to: [u8; 16]) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(1280 - 48)];
    let mut answer = vec![0; 48 + quoted.len()];
    let (ip, icmp) = answer.split_at_mut(40);
    icmp[0] = 2;
    icmp[6..8].copy_from_slice(&mtu.to_be_bytes());
    icmp[8..].copy_from_slice(quoted);
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&length(icmp.len()));
    ip[6..8].copy_from_slice(&[ICMPV6, 64]);
    ip[8..24].copy_from_slice(&from);
    ip[24..40].copy_from_slice(&to);
    let pseudo = Sum::of(&ip[8..40]).and(Sum::of(&length(icmp.len()))).word(ICMPV6.into());
    let checksum = pseudo.and(Sum::of(icmp)).checksum();
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    answer
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("quoted packets are cut to less than 1280 bytes").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways() -> [IpAddr; 2] {
        ["192.0.2.1".parse().unwrap(), "2001:db8:5::1".parse().unwrap()]
    }

    fn v4(protocol: u8, first: u8) -> Vec<u8> {
        let mut packet = vec![0; 1400];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&1400_u16.to_be_bytes());
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&[192, 0, 2, 7]);
        packet[20] = first;
        packet
    }

    fn v6(protocol: u8, first: u8) -> Vec<u8> {
        let mut packet = vec![0; 1400];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&1360_u16.to_be_bytes());
        packet[6] = protocol;
        packet[8..12].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        packet[40] = first;
        packet
    }

    #[test]
    fn an_error_goes_to_the_source_with_the_mtu_and_valid_checksums() {
        let packet = v4(17, 0);
        let answer = too_big(&packet, 1300, &gateways()).unwrap();
        let parsed = Packet::parse(&answer).unwrap();
        assert_eq!((parsed.source(), answer.len()), (gateways()[0], 576));
        assert_eq!(&answer[16..20], &[192, 0, 2, 7]);
        assert_eq!(
            (Sum::of(&answer[..20]).fold(), Sum::of(&answer[20..]).fold()),
            (0xffff, 0xffff)
        );
        assert_eq!((&answer[20..22], &answer[26..28]), (&[3, 4][..], &1300_u16.to_be_bytes()[..]));
        assert_eq!(answer[28..], packet[..548]);

        let packet = v6(17, 0);
        let answer = too_big(&packet, 1300, &gateways()).unwrap();
        let parsed = Packet::parse(&answer).unwrap();
        assert_eq!((parsed.source(), answer.len()), (gateways()[1], 1280));
        let sum = parsed.pseudo_header().word(1240).and(Sum::of(parsed.transport()));
        assert_eq!(sum.fold(), 0xffff);
        assert_eq!((answer[40], &answer[46..48]), (2, &1300_u16.to_be_bytes()[..]));
        assert_eq!(answer[48..], packet[..1232]);
    }

    #[test]
    fn there_is_no_error_about_errors_and_later_fragments() {
        let mut fragment = v4(17, 0);
        fragment[7] = 1;
        for packet in [v4(ICMP, 3), v6(ICMPV6, 1), fragment, vec![0; 20]] {
            assert_eq!(too_big(&packet, 1300, &gateways()), None);
        }
        for echo in [v4(ICMP, 8), v6(ICMPV6, 128)] {
            assert!(too_big(&echo, 1300, &gateways()).is_some());
        }
        assert_eq!(too_big(&v6(17, 0), 1300, &gateways()[..1]), None);
    }
}
