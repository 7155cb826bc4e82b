use cframe_packet::{ip::Packet, split::Splitter, vnet::VnetHeader};
use proptest::{collection::vec, prelude::*};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// One read: a UDP super-packet of `count` packets with `payload` bytes each, all of them `number`.
fn read(number: u8, count: usize, payload: usize, ecn: Ecn) -> Packets {
    let len = 28 + count * payload;
    let mut packet = vec![number; len];
    packet[..20].fill(0);
    packet[0] = 0x45;
    packet[1] = ecn as u8;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 1, 0, 1]);
    let header = VnetHeader {
        gso_type: VnetHeader::GSO_UDP_L4,
        gso_size: payload as u16,
        ..VnetHeader::default()
    };
    Splitter::default().split(&header, &Packet::parse(&packet).unwrap(), 1400).unwrap()
}

fn bulk(number: u8) -> Packets {
    read(number, 40, 1300, Ecn::NotEct)
}

fn small(number: u8) -> Packets {
    read(number, 1, 40, Ecn::NotEct)
}

fn number(packet: &Bytes) -> u8 {
    packet[packet.len() - 1]
}

#[test]
fn the_order_of_a_flow_is_kept_and_age_is_the_limit() {
    let start = Instant::now();
    let (mut queue, mut dropped) = (Queue::default(), Dropped::default());
    queue.push(start, 1, small(0), &mut dropped);
    let later = start + MAX_AGE + MS;
    for number in 1..4 {
        queue.push(later, 1, small(number), &mut dropped);
    }
    assert_eq!(dropped, Dropped { full: 0, old: 1 });
    let order: Vec<u8> = std::iter::from_fn(|| queue.pop(later, &mut dropped))
        .map(|packet| number(&packet))
        .collect();
    assert_eq!(order, [1, 2, 3]);
    assert!(queue.is_empty());
}

#[test]
fn a_packet_of_a_new_flow_passes_a_bulk_flow() {
    let now = Instant::now();
    let (mut queue, mut dropped) = (Queue::default(), Dropped::default());
    for _ in 0..30 {
        queue.push(now, 1, bulk(1), &mut dropped);
    }
    // Its first turn is over.
    for _ in 0..10 {
        assert_eq!(number(&queue.pop(now, &mut dropped).unwrap()), 1);
    }
    queue.push(now, 2, small(2), &mut dropped);
    assert_eq!(number(&queue.pop(now, &mut dropped).unwrap()), 2);
    assert_eq!(number(&queue.pop(now, &mut dropped).unwrap()), 1);
}

#[test]
fn flows_take_turns_by_bytes() {
    let now = Instant::now();
    let (mut queue, mut dropped) = (Queue::default(), Dropped::default());
    for _ in 0..20 {
        queue.push(now, 1, bulk(1), &mut dropped);
        queue.push(now, 2, read(2, 400, 100, Ecn::NotEct), &mut dropped);
    }
    let mut bytes = [0, 0, 0];
    for _ in 0..4000 {
        let packet = queue.pop(now, &mut dropped).unwrap();
        bytes[usize::from(number(&packet))] += packet.len();
        let apart = bytes[1].abs_diff(bytes[2]);
        assert!(apart <= 2 * QUANTUM as usize + 1400, "{bytes:?}");
    }
}

#[test]
fn a_flow_that_pauses_each_time_does_not_starve_the_others() {
    let now = Instant::now();
    let (mut queue, mut dropped) = (Queue::default(), Dropped::default());
    for _ in 0..4 {
        queue.push(now, 1, bulk(1), &mut dropped);
    }
    let mut bytes = [0, 0, 0];
    for _ in 0..200 {
        queue.push(now, 2, read(2, 1, 1000, Ecn::NotEct), &mut dropped);
        let packet = queue.pop(now, &mut dropped).unwrap();
        bytes[usize::from(number(&packet))] += packet.len();
    }
    assert!(bytes[1] * 2 > bytes[2], "{bytes:?}");
}

#[test]
fn when_the_queue_is_full_the_longest_flow_loses_packets() {
    let now = Instant::now();
    let (mut queue, mut dropped) = (Queue::default(), Dropped::default());
    queue.push(now, 2, small(2), &mut dropped);
    for _ in 0..200 {
        queue.push(now, 1, bulk(1), &mut dropped);
    }
    assert!(queue.bytes <= MAX_BYTES);
    assert!(dropped.full > 0 && dropped.full.is_multiple_of(40));
    assert_eq!(number(&queue.pop(now, &mut dropped).unwrap()), 2);
    let left = queue.clear();
    assert_eq!(left + dropped.full, 200 * 40);
    assert!(queue.is_empty());
}

#[test]
fn a_standing_queue_marks_packets_with_ecn_and_drops_others() {
    for (ecn, drops) in [(Ecn::NotEct, true), (Ecn::Ect0, false)] {
        let start = Instant::now();
        let (mut queue, mut dropped) = (Queue::default(), Dropped::default());
        let mut marked = 0;
        for at in 0..2000 {
            // 20 ms of packets always wait.
            queue.push(start + at * MS, 1, read(1, 1, 1000, ecn), &mut dropped);
            if at >= 20
                && let Some(packet) = queue.pop(start + at * MS, &mut dropped)
            {
                marked += u32::from(Ecn::of(&packet) == Ecn::Ce);
                assert!(Packet::parse(&packet).is_ok());
            }
        }
        assert_eq!(
            (dropped.old > 0, marked > 0),
            (drops, !drops),
            "{ecn:?}: {dropped:?}, {marked}"
        );
    }
}

#[test]
fn a_cleared_queue_has_no_slots_and_expiry_reaches_all_flows() {
    let now = Instant::now();
    let (mut queue, mut dropped) = (Queue::default(), Dropped::default());
    for flow in 0..50 {
        queue.push(now, flow, small(1), &mut dropped);
    }
    assert_eq!(queue.expire(now + MAX_AGE), 0);
    assert_eq!(queue.expire(now + MAX_AGE + MS), 50);
    assert!(queue.is_empty());
    assert_eq!(queue.pop(now, &mut dropped), None);
    assert_eq!(queue.clear(), 0);
    assert!(queue.slots.is_none());
}

proptest! {
    /// Also checks the count of bytes.
    #[test]
    fn every_packet_comes_out_in_its_flows_order_or_is_counted(
        steps in vec((0..6_u64, 1..5_usize, 20..1400_usize, 0..30_u32, 0..8_usize), 1..200),
    ) {
        let mut now = Instant::now();
        let (mut queue, mut dropped) = (Queue::default(), Dropped::default());
        let (mut pushed, mut popped) = (0, 0);
        let flows: Vec<usize> = steps.iter().map(|step| step.0 as usize).collect();
        let mut newest = [0; 6];
        let mut take = |queue: &mut Queue, now, dropped: &mut Dropped| {
            let step = number(&queue.pop(now, dropped)?);
            let newest = &mut newest[flows[usize::from(step)]];
            popped += 1;
            Some(step >= std::mem::replace(newest, step))
        };
        for (step, (flow, count, payload, wait, pops)) in steps.iter().enumerate() {
            queue.push(now, *flow, read(step as u8, *count, *payload, Ecn::NotEct), &mut dropped);
            pushed += *count as u64;
            for _ in 0..*pops {
                prop_assert!(take(&mut queue, now, &mut dropped) != Some(false));
            }
            let bytes: usize = queue.flows.iter().map(|flow| flow.bytes).sum();
            prop_assert_eq!(bytes, queue.bytes);
            now += *wait * MS / 10;
        }
        while let Some(in_order) = take(&mut queue, now, &mut dropped) {
            prop_assert!(in_order);
        }
        prop_assert_eq!(pushed, popped + dropped.old + dropped.full);
        prop_assert!(queue.is_empty());
        prop_assert_eq!(queue.flows.len(), queue.free.len());
    }
}
