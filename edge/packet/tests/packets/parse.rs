use std::net::IpAddr;

use cframe_packet::{
    checksum::{Sum, adjust},
    ecn::{Ecn, EcnVerdict, apply_ecn, set_ce},
    ip::{Fragment, Packet, Unparsable},
};
use proptest::{collection::vec, prelude::*};

use crate::build::{Spec, Transport, any_spec, fold, words};

proptest! {
    #[test]
    fn garbage_never_panics(mut bytes in vec(any::<u8>(), 0..200), first in any::<u8>(), outer_ce in any::<bool>()) {
        if let Some(byte) = bytes.first_mut() {
            *byte = if first % 2 == 0 { 0x40 } else { 0x60 } | first >> 4;
        }
        // Otherwise only one in 65,536 would pass the length check.
        let len = bytes.len() as u16;
        if bytes.len() >= 40 && first % 4 < 3 {
            let at = if bytes[0] >> 4 == 4 { 2 } else { 4 };
            bytes[at..at + 2].copy_from_slice(&(if at == 2 { len } else { len - 40 }).to_be_bytes());
        }
        if let Ok(packet) = Packet::parse(&bytes) {
            prop_assert_eq!(packet.bytes().len(), bytes.len());
            prop_assert!(packet.transport_offset() <= bytes.len());
            let _ = (packet.ports(), packet.flow(), packet.ttl(), packet.ecn(), packet.pseudo_header());
        }
        let _ = apply_ecn(&mut bytes, outer_ce);
        set_ce(&mut bytes);
    }

    #[test]
    fn every_field_is_read(spec in any_spec(100)) {
        let bytes = spec.build();
        let packet = Packet::parse(&bytes).unwrap();
        let address = |last: u8| -> IpAddr {
            if spec.v6 { format!("fd00:60::{last:x}") } else { format!("172.18.0.{last}") }.parse().unwrap()
        };
        prop_assert_eq!(packet.source(), address(1));
        prop_assert_eq!(packet.destination(), address(2));
        prop_assert_eq!(packet.protocol(), if spec.is_udp() { 17 } else { 6 });
        prop_assert_eq!(packet.ports(), Some((5000, 443)));
        prop_assert_eq!(packet.ttl(), spec.ttl);
        prop_assert_eq!(packet.ecn() as u8, spec.tos & 3);
        prop_assert_eq!(packet.fragment(), Fragment::Whole);
        prop_assert!(packet.transport().ends_with(&spec.payload));
    }

    #[test]
    fn a_length_that_is_not_the_buffers_is_refused(spec in any_spec(100), cut in 1..=8_usize) {
        let mut bytes = spec.build();
        let (stated, actual) = (bytes.len(), bytes.len() - cut);
        prop_assert_eq!(Packet::parse(&bytes[..actual]).unwrap_err(), Unparsable::Length { stated, actual });
        bytes.push(0);
        let actual = bytes.len();
        prop_assert_eq!(Packet::parse(&bytes).unwrap_err(), Unparsable::Length { stated, actual });
    }

    #[test]
    fn fragments_are_recognised(v6: bool, ip_options: bool, offset in 0..0x1fff_u16, more: bool) {
        let spec = Spec { v6, ip_options, fragment: Some((offset, more)), ..Spec::udp(vec![9; 32]) };
        let bytes = spec.build();
        let packet = Packet::parse(&bytes).unwrap();
        let expected = match (offset, more) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        };
        prop_assert_eq!(packet.fragment(), expected);
        prop_assert_eq!(packet.ports().is_some(), expected != Fragment::Later);
        prop_assert_eq!(packet.transport().len(), 40);
    }

    #[test]
    fn the_sum_is_the_one_of_the_rfc(bytes in vec(any::<u8>(), 0..3000), split in 0..1500_usize) {
        prop_assert_eq!(u64::from(Sum::of(&bytes).fold()), fold(words(&bytes)));
        let (front, back) = bytes.split_at((split * 2).min(bytes.len() & !1));
        prop_assert_eq!(Sum::of(front).and(Sum::of(back)).fold(), Sum::of(&bytes).fold());
    }

    #[test]
    fn an_adjusted_checksum_equals_a_new_sum(mut bytes in vec(any::<u8>(), 2..60), at in any::<usize>(), new: u16) {
        bytes.resize(bytes.len() & !1, 0);
        let at = at % (bytes.len() / 2) * 2;
        let before = Sum::of(&bytes).checksum();
        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        // Only all zeros sum up to zero, and there the two forms of zero differ.
        prop_assume!(words(&bytes) != 0);
        prop_assert_eq!(adjust(before, old, new), Sum::of(&bytes).checksum());
    }

    #[test]
    fn congestion_experienced_leaves_the_header_valid(spec in any_spec(50)) {
        let mut bytes = spec.build();
        let verdict = apply_ecn(&mut bytes, true);
        let expected = match spec.tos & 3 {
            0 => EcnVerdict::Drop,
            3 => EcnVerdict::Unchanged,
            _ => EcnVerdict::Marked,
        };
        prop_assert_eq!(verdict, expected);
        let tos = if expected == EcnVerdict::Drop { spec.tos } else { spec.tos | 3 };
        prop_assert_eq!(bytes, Spec { tos, ..spec }.build());
    }

    #[test]
    fn an_outer_header_without_ce_changes_nothing(spec in any_spec(50)) {
        let mut bytes = spec.build();
        prop_assert_eq!(apply_ecn(&mut bytes, false), EcnVerdict::Unchanged);
        prop_assert_eq!(bytes, spec.build());
    }
}

#[test]
fn flows_differ_by_every_part_of_the_key() {
    let base = Spec::udp(vec![1]);
    let variants = [
        Spec { source: 9, ..base.clone() },
        Spec { destination: 9, ..base.clone() },
        Spec { flow: 9, ..base.clone() },
        Spec { v6: true, ..base.clone() },
        Spec { transport: Spec::tcp(vec![]).transport, ..base.clone() },
    ];
    let base = base.build();
    let key = Packet::parse(&base).unwrap().flow();
    for variant in variants {
        let bytes = variant.build();
        let other = Packet::parse(&bytes).unwrap().flow();
        assert_ne!(key, other);
        assert_ne!(key.hash64(1), other.hash64(1));
    }
    assert_ne!(key.hash64(1), key.hash64(2));
}

#[test]
fn endless_extension_headers_are_refused() {
    let mut bytes = Spec { v6: true, ..Spec::udp(vec![0; 72]) }.build();
    bytes[6] = 60;
    bytes[40..].fill(0);
    for at in (40..bytes.len()).step_by(8) {
        bytes[at] = 60;
    }
    assert_eq!(Packet::parse(&bytes).unwrap_err(), Unparsable::Extensions);
}

#[test]
fn an_extension_header_past_the_end_is_refused() {
    let mut bytes = Spec { v6: true, ip_options: true, ..Spec::udp(vec![]) }.build();
    bytes[41] = 200;
    assert_eq!(Packet::parse(&bytes).unwrap_err(), Unparsable::Extensions);
}

#[test]
fn the_length_of_the_authentication_header_is_in_words() {
    let spec = Spec { v6: true, ..Spec::udp(vec![5; 8]) };
    let udp = spec.build().split_off(40);
    let mut bytes = spec.build();
    bytes.splice(40..40, [17, 4, 0, 0].into_iter().chain([0; 20]));
    bytes[6] = 51;
    bytes[4..6].copy_from_slice(&(24 + udp.len() as u16).to_be_bytes());
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.protocol(), packet.transport()), (17, &udp[..]));
}

#[test]
fn bytes_that_are_no_ip_packet_are_refused() {
    assert_eq!(Packet::parse(&[]).unwrap_err(), Unparsable::Version);
    assert_eq!(Packet::parse(&[0x01; 40]).unwrap_err(), Unparsable::Version);
    assert_eq!(Packet::parse(&[0x45; 19]).unwrap_err(), Unparsable::Header);
    assert_eq!(Packet::parse(&[0x60; 39]).unwrap_err(), Unparsable::Header);
    let mut short = Spec::udp(vec![]).build();
    short[0] = 0x44;
    assert_eq!(Packet::parse(&short).unwrap_err(), Unparsable::Header);
    short[0] = 0x4f;
    assert_eq!(Packet::parse(&short).unwrap_err(), Unparsable::Header);
}

#[test]
fn a_jumbogram_is_refused() {
    let mut bytes = Spec { v6: true, ..Spec::udp(vec![1; 30]) }.build();
    bytes[4..6].fill(0);
    assert_eq!(Packet::parse(&bytes).unwrap_err(), Unparsable::Length { stated: 40, actual: 78 });
}

#[test]
fn ecn_of_too_few_bytes_is_not_ect() {
    assert_eq!(Ecn::of(&[]), Ecn::NotEct);
    assert_eq!(Ecn::of(&[0x45]), Ecn::NotEct);
}

#[test]
fn a_truncated_transport_header_has_no_ports() {
    let mut bytes = Spec { transport: Transport::Udp, ..Spec::udp(vec![]) }.build();
    bytes.truncate(23);
    bytes[2..4].copy_from_slice(&23_u16.to_be_bytes());
    assert_eq!(Packet::parse(&bytes).unwrap().ports(), None);
}
