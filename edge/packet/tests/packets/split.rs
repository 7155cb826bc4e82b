use bytes::Bytes;
use cframe_packet::{
    ip::Packet,
    split::{Malformed, Splitter},
    vnet::VnetHeader,
};
use proptest::{collection::vec, prelude::*};

use crate::build::{ACK, SYN, Spec, Transport, any_spec, has_valid_checksums};

/// A super-packet with the header that the kernel puts before it.
fn offload(spec: &Spec, gso_size: usize) -> (VnetHeader, Vec<u8>) {
    let (packet, start, field) = spec.build_partial();
    let gso_type = match (spec.is_udp(), spec.v6) {
        (true, _) => VnetHeader::GSO_UDP_L4,
        (false, false) => VnetHeader::GSO_TCPV4,
        (false, true) => VnetHeader::GSO_TCPV6,
    };
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type,
        // A kernel that forwards states the length of its first buffer.
        header_len: packet.len() as u16,
        gso_size: gso_size as u16,
        csum_start: start as u16,
        csum_offset: field as u16,
    };
    (header, packet)
}

pub(crate) fn split_all(header: &VnetHeader, packet: &[u8]) -> Result<Vec<Bytes>, Malformed> {
    let split = Splitter::default().split(header, &Packet::parse(packet).unwrap(), 1400)?;
    let (count, bytes) = (split.len(), split.bytes());
    let packets: Vec<Bytes> = split.collect();
    assert_eq!((count, bytes), (packets.len(), packets.iter().map(Bytes::len).sum()));
    Ok(packets)
}

proptest! {
    #[test]
    fn super_packets_become_what_a_network_card_would_send(spec in any_spec(65_000), size in 8..9000_usize) {
        let (header, packet) = offload(&spec, size);
        prop_assert_eq!(split_all(&header, &packet).unwrap(), spec.segment(size));
    }

    #[test]
    fn segments_of_a_super_packet_are_valid(mut spec in any_spec(65_000), size in 500..1500_usize, ecn: bool) {
        spec.ip_options = false;
        let (mut header, packet) = offload(&spec, size);
        if ecn && !spec.is_udp() {
            header.gso_type |= VnetHeader::GSO_ECN;
        }
        for segment in split_all(&header, &packet).unwrap() {
            prop_assert!(Packet::parse(&segment).is_ok());
            prop_assert!(has_valid_checksums(&segment));
        }
    }

    #[test]
    fn an_ordinary_packet_gets_its_checksum(mut spec in any_spec(1400)) {
        if let Transport::Tcp { flags, .. } = &mut spec.transport {
            *flags &= !SYN;
        }
        let (mut header, packet) = offload(&spec, 0);
        header.gso_type = VnetHeader::GSO_NONE;
        let mut expected = spec.build();
        let field = usize::from(header.csum_start + header.csum_offset);
        // The kernel writes TCP's zero as all ones too: the same number.
        if expected[field..field + 2] == [0, 0] {
            expected[field..field + 2].fill(0xff);
        }
        prop_assert_eq!(split_all(&header, &packet).unwrap(), [expected]);
        let complete = spec.build();
        prop_assert_eq!(split_all(&VnetHeader::default(), &complete).unwrap(), [complete]);
    }

    #[test]
    fn malformed_headers_never_panic(raw: [u8; 10], spec in any_spec(3000), cut in 0..60_usize, junk in vec(any::<u8>(), 0..60)) {
        let (mut header, _) = VnetHeader::parse(&raw).unwrap();
        prop_assert_eq!(header.encode(), raw);
        header.gso_type &= 7 | VnetHeader::GSO_ECN;
        let mut bytes = spec.build();
        let start = bytes.len().saturating_sub(cut).max(40).min(bytes.len());
        bytes.truncate(start);
        bytes.extend(junk);
        let len = bytes.len() as u16;
        let (at, len) = if spec.v6 { (4, len - 40) } else { (2, len) };
        bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
        if let Ok(packet) = Packet::parse(&bytes) {
            let _ = Splitter::default().split(&header, &packet, 1400);
        }
    }
}

#[test]
fn a_splitter_that_is_used_again_gives_the_same_packets() {
    let (header, packet) = offload(&Spec::tcp(vec![1; 60_000]), 1000);
    let packet = Packet::parse(&packet).unwrap();
    let mut splitter = Splitter::default();
    let first: Vec<Bytes> = splitter.split(&header, &packet, 1400).unwrap().collect();
    let mut misplaced = VnetHeader { gso_type: VnetHeader::GSO_NONE, ..header };
    misplaced.csum_start = u16::MAX;
    for _ in 0..200 {
        splitter.split(&misplaced, &packet, 1400).unwrap_err();
        let again: Vec<Bytes> = splitter.split(&header, &packet, 1400).unwrap().collect();
        assert_eq!(first, again);
    }
}

#[test]
fn all_segments_share_one_allocation() {
    let (header, packet) = offload(&Spec::tcp(vec![1; 5000]), 1000);
    let packets = split_all(&header, &packet).unwrap();
    for pair in packets.windows(2) {
        assert_eq!(pair[0].as_ptr_range().end, pair[1].as_ptr_range().start);
    }
}

#[test]
fn a_syn_with_a_partial_checksum_is_completed_and_clamped() {
    let syn = |mss: u16| {
        let options = [&[2, 4][..], &mss.to_be_bytes()].concat();
        let transport = Transport::Tcp {
            sequence: 5,
            acknowledged: 0,
            flags: SYN,
            window: 9,
            urgent: 0,
            options,
        };
        Spec { transport, ..Spec::tcp(vec![]) }
    };
    let (mut header, packet) = offload(&syn(1460), 0);
    header.gso_type = VnetHeader::GSO_NONE;
    assert_eq!(split_all(&header, &packet).unwrap(), [syn(1360).build()]);
}

#[test]
fn offloads_that_contradict_the_packet_are_refused() {
    let tcp = Spec { transport: Spec::tcp(vec![]).transport, ..Spec::udp(vec![1; 100]) };
    let (header, packet) = offload(&tcp, 50);
    let refused = |change: &dyn Fn(&mut VnetHeader)| {
        let mut header = header;
        change(&mut header);
        split_all(&header, &packet).unwrap_err()
    };
    for gso_type in [2, 3, VnetHeader::GSO_TCPV6, VnetHeader::GSO_UDP_L4, 0x7f, VnetHeader::GSO_ECN]
    {
        assert_eq!(refused(&|header| header.gso_type = gso_type), Malformed::Type(gso_type));
    }
    assert_eq!(refused(&|header| header.gso_size = 0), Malformed::Size);
    assert_eq!(
        refused(&|header| header.csum_start = 21),
        Malformed::Checksum { start: 21, offset: 16 }
    );
    assert_eq!(
        refused(&|header| header.csum_offset = 6),
        Malformed::Checksum { start: 20, offset: 6 }
    );
    let outside = |header: &mut VnetHeader| {
        (header.gso_type, header.csum_offset) = (VnetHeader::GSO_NONE, 200)
    };
    assert_eq!(refused(&outside), Malformed::Checksum { start: 20, offset: 200 });
}

#[test]
fn fragments_are_never_segmented() {
    let (header, packet) =
        offload(&Spec { fragment: Some((0, true)), ..Spec::udp(vec![1; 100]) }, 50);
    assert_eq!(split_all(&header, &packet).unwrap_err(), Malformed::Type(VnetHeader::GSO_UDP_L4));
}

#[test]
fn a_truncated_tcp_header_is_refused() {
    let mut spec = Spec::tcp(vec![]);
    spec.transport = Transport::Tcp {
        sequence: 0,
        acknowledged: 0,
        flags: ACK,
        window: 0,
        urgent: 0,
        options: vec![],
    };
    let (header, mut packet) = offload(&spec, 50);
    for offset in [0x40, 0x60] {
        packet[32] = offset;
        assert_eq!(split_all(&header, &packet).unwrap_err(), Malformed::Header);
    }
}

#[test]
fn a_read_shorter_than_the_header_is_refused() {
    assert_eq!(VnetHeader::parse(&[0; 9]), None);
    assert_eq!(VnetHeader::parse(&[0; 10]), Some((VnetHeader::default(), &[][..])));
}
