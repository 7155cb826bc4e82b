#![expect(clippy::wildcard_enum_match_arm, reason = "a step changes only what it is named after")]

use std::io::IoSlice;

use bytes::Bytes;
use cframe_packet::{
    checksum::complete_checksum,
    coalesce::{Coalescer, MAX_SEGMENTS},
    ip::{Fragment, Packet},
    vnet::VnetHeader,
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    build::{ACK, CWR, FIN, PSH, SYN, Spec, Transport, any_spec, fold, has_valid_checksums, words},
    split::split_all,
};

/// The next packet of a flow, or a change to it.
#[derive(Debug, Clone)]
enum Step {
    Full,
    Short(usize),
    Long,
    Push,
    Empty,
    Flags(u8),
    BadChecksum,
    BadIpChecksum,
    NoChecksum,
    Gap,
    Tos(u8),
    Ttl,
    Window,
    Acknowledge,
    Urgent,
    Options(u8),
    Id,
    DontFragment,
    IpOptions,
    Fragment(u16, bool),
    ReservedBits,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => Just(Step::Full),
        2 => (1..100_usize).prop_map(Step::Short),
        2 => prop_oneof![Just(Step::Long), Just(Step::Push), Just(Step::Empty), Just(Step::Gap)],
        1 => prop_oneof![Just(FIN), Just(SYN), Just(CWR), Just(0x40), Just(0x20), Just(0x04)].prop_map(Step::Flags),
        2 => prop_oneof![Just(Step::BadChecksum), Just(Step::BadIpChecksum), Just(Step::NoChecksum)],
        1 => prop_oneof![(0..4_u8).prop_map(Step::Tos), Just(Step::Ttl), Just(Step::Id), Just(Step::DontFragment)],
        1 => prop_oneof![Just(Step::Window), Just(Step::Acknowledge), Just(Step::Urgent), (0..3_u8).prop_map(Step::Options)],
        1 => prop_oneof![Just(Step::IpOptions), (0..3_u16, any::<bool>()).prop_map(|(offset, more)| Step::Fragment(offset, more))],
        1 => Just(Step::ReservedBits),
    ]
}

struct Flow {
    next: Spec,
    size: usize,
    /// All ids are the same, as some hosts do with "don't fragment".
    constant_id: bool,
}

impl Flow {
    /// Flows of both families and protocols, four for each pair of hosts.
    fn new(index: u16) -> Self {
        let spec = if index % 3 == 2 { Spec::udp(vec![]) } else { Spec::tcp(vec![]) };
        let host = (index / 4) as u8;
        let next = Spec { v6: index % 2 == 1, source: host, flow: index, ..spec };
        Self { next, size: 100 + 37 * usize::from(index), constant_id: index.is_multiple_of(5) }
    }

    fn packet(&mut self, step: &Step) -> Vec<u8> {
        let len = match step {
            Step::Short(len) => *len,
            Step::Long => self.size + 1,
            Step::Empty => 0,
            _ => self.size,
        };
        self.next.payload = (0..len).map(|at| (at * 5) as u8 ^ self.next.id as u8).collect();
        self.lasting_change(step);
        let mut spec = self.next.clone();
        match step {
            Step::IpOptions => spec.ip_options = true,
            Step::Fragment(offset, more) => spec.fragment = Some((*offset, *more)),
            _ => {}
        }
        if let Transport::Tcp { flags, .. } = &mut spec.transport {
            *flags |= match step {
                Step::Flags(set) => *set,
                Step::Push => PSH,
                _ => 0,
            };
        }
        self.next.id = spec.id.wrapping_add(u16::from(!self.constant_id));
        if let Transport::Tcp { sequence, .. } = &mut self.next.transport {
            *sequence = sequence.wrapping_add(len as u32);
        }
        damage(spec.build(), &spec, step)
    }

    fn lasting_change(&mut self, step: &Step) {
        let next = &mut self.next;
        match step {
            Step::Tos(tos) => next.tos = *tos,
            Step::Ttl => next.ttl = next.ttl.wrapping_sub(1),
            Step::Id => next.id = next.id.wrapping_add(9),
            Step::DontFragment => next.dont_fragment ^= true,
            _ => {}
        }
        if let Transport::Tcp { sequence, acknowledged, window, urgent, options, .. } =
            &mut next.transport
        {
            match step {
                Step::Gap => *sequence = sequence.wrapping_add(1000),
                Step::Acknowledge => *acknowledged = acknowledged.wrapping_add(1),
                Step::Window => *window ^= 1,
                Step::Urgent => *urgent ^= 1,
                Step::Options(words) => *options = vec![1; 4 * usize::from(*words)],
                _ => {}
            }
        }
    }
}

fn damage(mut packet: Vec<u8>, spec: &Spec, step: &Step) -> Vec<u8> {
    let start = if spec.v6 { 40 } else { 20 };
    let field = start + if spec.is_udp() { 6 } else { 16 };
    match step {
        Step::BadChecksum => packet[field] ^= 0x10,
        Step::BadIpChecksum if !spec.v6 => packet[10] ^= 0x10,
        Step::NoChecksum if spec.is_udp() => packet[field..field + 2].fill(0),
        // IPv4's reserved bit, TCP's reserved bits.
        Step::ReservedBits if !spec.v6 => {
            packet[6] ^= 0x80;
            raise_sum(&mut packet[10..12], 0x8000);
        }
        Step::ReservedBits if !spec.is_udp() => {
            packet[start + 12] ^= 1;
            raise_sum(&mut packet[field..field + 2], 0x0100);
        }
        _ => {}
    }
    packet
}

/// Updates a checksum after a word of its data grew by `by`.
fn raise_sum(checksum: &mut [u8], by: u64) {
    let sum = fold(words(&[!checksum[0], !checksum[1]]) + by) as u16;
    checksum.copy_from_slice(&(!sum).to_be_bytes());
}

fn record(writes: &mut Vec<Vec<u8>>) -> impl FnMut(&[IoSlice<'_>]) {
    |slices| {
        assert!(slices.len() <= 1 + MAX_SEGMENTS);
        writes.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
    }
}

fn coalesce(packets: &[Vec<u8>], udp: bool) -> Vec<Vec<u8>> {
    let mut writes = Vec::new();
    let mut coalescer = Coalescer::new(7, udp);
    let mut write = record(&mut writes);
    for packet in packets {
        coalescer.push(Bytes::from(packet.clone()), &mut write);
    }
    coalescer.flush(&mut write);
    assert!(coalescer.is_empty());
    drop(write);
    writes
}

/// The packets that a network card makes of a write, after the checks that the kernel does.
fn segment_write(write: &[u8]) -> Vec<Bytes> {
    let (header, packet) = VnetHeader::parse(write).unwrap();
    if header.gso_type == VnetHeader::GSO_NONE {
        assert_eq!(header, VnetHeader::default());
        return vec![Bytes::copy_from_slice(packet)];
    }
    let (start, payload) =
        (usize::from(header.csum_start), packet.len() - usize::from(header.header_len));
    let size = usize::from(header.gso_size);
    assert!(size > 0 && payload > size && payload <= size * MAX_SEGMENTS);
    assert_eq!(header.flags, VnetHeader::NEEDS_CSUM);
    let mut complete = packet.to_vec();
    assert!(complete_checksum(&mut complete, start, header.csum_offset.into()));
    assert!(has_valid_checksums(&complete));
    split_all(&header, packet).unwrap()
}

/// A packet for comparison. In flows with a constant id, which has no meaning, the id and the
/// checksum are zero.
fn comparable(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let flow = Packet::parse(packet).unwrap().ports().map_or(0, |(port, _)| port - 5000);
    if packet[0] >> 4 == 4 && flow.is_multiple_of(5) {
        bytes[4..6].fill(0);
        bytes[10..12].fill(0);
    }
    bytes
}

/// The packets whose order relative to `like` must not change: those of its flow, and fragments
/// between its hosts.
fn in_order<'a>(packets: impl IntoIterator<Item = &'a [u8]>, like: &[u8]) -> Vec<Vec<u8>> {
    let key = Packet::parse(like).unwrap().flow();
    let related = packets.into_iter().filter(|bytes| {
        let packet = Packet::parse(bytes).unwrap();
        let fragment = packet.fragment() != Fragment::Whole;
        packet.flow() == key || (fragment && packet.flow().same_addresses(&key))
    });
    related.map(comparable).collect()
}

proptest! {
    /// Each flow's packets keep their order, and wrong checksums stay wrong.
    #[test]
    fn segmenting_merged_packets_gives_the_packets_back(
        steps in vec((0..12_u16, step()), 0..200),
        reordered in vec(any::<Index>(), 0..5),
        only in 1..=12_u16,
        udp: bool,
    ) {
        let mut flows: Vec<Flow> = (0..12).map(Flow::new).collect();
        let mut packets: Vec<Vec<u8>> =
            steps.iter().map(|(flow, step)| flows[usize::from(flow % only)].packet(step)).collect();
        for index in reordered {
            if packets.len() > 1 {
                let at = index.index(packets.len() - 1);
                packets.swap(at, at + 1);
            }
        }
        let out: Vec<Bytes> = coalesce(&packets, udp).iter().flat_map(|write| segment_write(write)).collect();
        prop_assert_eq!(out.len(), packets.len());
        for packet in &packets {
            let before = in_order(packets.iter().map(|packet| &packet[..]), packet);
            let after = in_order(out.iter().map(|packet| &packet[..]), packet);
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn merging_segments_gives_the_super_packet_back(
        mut spec in any_spec(60_000),
        size in 1000..1500_usize,
        push: bool,
    ) {
        spec.ip_options = false;
        if let Transport::Tcp { flags, .. } = &mut spec.transport {
            *flags = ACK | if push { PSH } else { 0 };
        }
        prop_assume!(spec.payload.len() > size);
        let (packet, start, field) = spec.build_partial();
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type: match (spec.is_udp(), spec.v6) {
                (true, _) => VnetHeader::GSO_UDP_L4,
                (false, true) => VnetHeader::GSO_TCPV6,
                (false, false) => VnetHeader::GSO_TCPV4,
            },
            header_len: (packet.len() - spec.payload.len()) as u16,
            gso_size: size as u16,
            csum_start: start as u16,
            csum_offset: field as u16,
        };
        let writes = coalesce(&spec.segment(size), true);
        prop_assert_eq!(writes, [[&header.encode()[..], &packet].concat()]);
    }

    #[test]
    fn garbage_is_passed_on(packets in vec((any::<bool>(), vec(any::<u8>(), 0..100)), 0..20)) {
        let packets: Vec<Vec<u8>> = packets.into_iter().map(|(plausible, mut bytes)| {
            if plausible && bytes.len() >= 20 {
                let len = bytes.len() as u16;
                bytes[0] = 0x45;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[6..8].fill(0);
                bytes[9] = if len.is_multiple_of(2) { 6 } else { 17 };
            }
            bytes
        }).collect();
        let mut writes: Vec<Vec<u8>> = coalesce(&packets, true).iter().map(|write| write[10..].to_vec()).collect();
        let mut packets = packets;
        packets.sort();
        writes.sort();
        prop_assert_eq!(writes, packets);
    }
}

fn segments(spec: &Spec, count: usize, size: usize) -> Vec<Vec<u8>> {
    Spec { payload: vec![0x77; count * size], ..spec.clone() }.segment(size)
}

#[test]
fn a_turn_of_full_sized_segments_is_one_write() {
    for v6 in [false, true] {
        let packets = segments(&Spec { v6, ..Spec::tcp(vec![]) }, 44, 1348);
        assert_eq!(coalesce(&packets, false).len(), 1);
    }
}

#[test]
fn no_super_packet_exceeds_64_kib() {
    let packets = segments(&Spec::tcp(vec![]), 50, 1448);
    let writes = coalesce(&packets, false);
    let lens: Vec<usize> = writes.iter().map(|write| write.len() - VnetHeader::LEN).collect();
    assert_eq!(lens, [52 + 45 * 1448, 52 + 5 * 1448]);
}

#[test]
fn no_super_packet_has_more_segments_than_kernels_accept() {
    assert_eq!(coalesce(&segments(&Spec::udp(vec![]), 150, 64), true).len(), 3);
    assert_eq!(coalesce(&segments(&Spec::tcp(vec![]), 150, 64), true).len(), 3);
}

#[test]
fn datagrams_are_merged_only_if_the_tun_accepts_them() {
    let packets = segments(&Spec::udp(vec![]), 30, 64);
    assert_eq!(coalesce(&packets, true).len(), 1);
    assert_eq!(coalesce(&packets, false).len(), 30);
}

#[test]
fn a_push_is_written_at_once() {
    let mut writes = Vec::new();
    let mut coalescer = Coalescer::new(7, false);
    let mut spec = Spec { payload: vec![1; 300], ..Spec::tcp(vec![]) };
    let Transport::Tcp { flags, .. } = &mut spec.transport else { unreachable!() };
    *flags |= PSH;
    for packet in spec.segment(100) {
        coalescer.push(packet.into(), &mut record(&mut writes));
    }
    assert!(coalescer.is_empty());
    assert_eq!(writes.len(), 1);
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for bad in 0..3 {
        let mut packets = segments(&Spec::tcp(vec![]), 3, 100);
        packets[bad][80] ^= 1;
        let out: Vec<Bytes> =
            coalesce(&packets, false).iter().flat_map(|write| segment_write(write)).collect();
        assert_eq!(out, packets);
        assert!(!has_valid_checksums(&out[bad]));
    }
}

#[test]
fn packets_of_hosts_that_leave_the_id_at_zero_are_merged_too() {
    let packets: Vec<Vec<u8>> =
        (0..10).map(|_| Spec { id: 0, ..Spec::udp(vec![3; 500]) }.build()).collect();
    assert_eq!(coalesce(&packets, true).len(), 1);
    let may_be_fragmented = Spec { id: 0, dont_fragment: false, ..Spec::udp(vec![3; 500]) }.build();
    assert_eq!(coalesce(&vec![may_be_fragmented; 10], true).len(), 10);
}

#[test]
fn ids_of_merged_packets_either_grow_or_stay() {
    let packets: Vec<Vec<u8>> =
        [5, 5, 6, 7, 7].map(|id| Spec { id, ..Spec::udp(vec![3; 500]) }.build()).to_vec();
    let lens: Vec<usize> =
        coalesce(&packets, true).iter().map(|write| segment_write(write).len()).collect();
    assert_eq!(lens, [2, 2, 1]);
}

/// A datagram whose computed checksum is zero, which is sent as all ones.
fn checksum_of_ones() -> Spec {
    let mut spec = Spec { id: 0, ..Spec::udp(vec![0; 20]) };
    let before = spec.build();
    spec.payload[..2].copy_from_slice(&before[26..28]);
    assert_eq!(spec.build()[26..28], [0xff, 0xff]);
    spec
}

#[test]
fn a_datagram_without_checksum_does_not_get_one() {
    // A checksum field of zero sums up like one of all ones.
    let mut packet = checksum_of_ones().build();
    packet[26..28].fill(0);
    assert_eq!(coalesce(&vec![packet; 3], true).len(), 3);
}

#[test]
fn a_checksum_of_zero_is_written_as_ones() {
    let writes = coalesce(&vec![checksum_of_ones().build(); 3], true);
    assert_eq!(writes.len(), 1);
    for packet in segment_write(&writes[0]) {
        assert_eq!(packet[26..28], [0xff, 0xff]);
    }
}

#[test]
fn congestion_marks_are_never_merged_away() {
    let packets: Vec<Vec<u8>> = [2, 2, 3, 3, 2]
        .iter()
        .zip(segments(&Spec::tcp(vec![]), 5, 100))
        .map(|(tos, mut packet)| {
            packet[1] = *tos;
            packet[11] = packet[11].wrapping_sub(*tos);
            packet
        })
        .collect();
    let lens: Vec<usize> =
        coalesce(&packets, false).iter().map(|write| segment_write(write).len()).collect();
    assert_eq!(lens, [2, 2, 1]);
}

#[test]
fn many_flows_at_once_are_merged_separately() {
    let flows: Vec<Vec<Vec<u8>>> =
        (0..64).map(|flow| segments(&Spec { flow, ..Spec::tcp(vec![]) }, 10, 100)).collect();
    let packets: Vec<Vec<u8>> =
        (0..10).flat_map(|at| flows.iter().map(move |flow| flow[at].clone())).collect();
    // A few sets have more flows than ways.
    assert!(coalesce(&packets, false).len() < 2 * 64);
}

#[test]
fn no_packet_is_lost_when_there_are_more_flows_than_places() {
    let packets: Vec<Vec<u8>> = (0..2)
        .flat_map(|at| {
            (0..1000)
                .map(move |flow| segments(&Spec { flow, ..Spec::tcp(vec![]) }, 2, 50)[at].clone())
        })
        .collect();
    let out: Vec<Bytes> =
        coalesce(&packets, false).iter().flat_map(|write| segment_write(write)).collect();
    assert_eq!(out.len(), packets.len());
}
