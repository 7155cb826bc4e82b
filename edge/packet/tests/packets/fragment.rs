use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cframe_packet::fragment::{
    Counters, FRAGMENT, HEADER_LEN, Reassembler, Rejected, TIMEOUT, fragment,
};
use proptest::{collection::vec, prelude::*, sample::Index};

fn packet(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|index| seed.wrapping_add((index * 31 / 7) as u8)).collect()
}

fn pieces(packet: &[u8], max_datagram: usize, id: u32) -> Vec<Bytes> {
    fragment(packet, max_datagram, id).unwrap().collect()
}

proptest! {
    #[test]
    fn pieces_are_even_and_fit(len in 1..65_536_usize, max in 9..70_000_usize) {
        let packet = packet(len, 3);
        let count = len.div_ceil(max - HEADER_LEN);
        let Some(fragments) = fragment(&packet, max, 1) else {
            prop_assert!(count > 64);
            return Ok(());
        };
        // Rounding a piece's size up may save the last one.
        prop_assert!(fragments.len() <= count);
        let pieces: Vec<Bytes> = fragments.collect();
        let longest = pieces.iter().map(Bytes::len).max().unwrap();
        prop_assert!(longest <= max);
        prop_assert!(longest - HEADER_LEN <= len.div_ceil(pieces.len()) + count);
        prop_assert!(pieces.iter().all(|piece| piece[0] == FRAGMENT && piece.len() > HEADER_LEN));
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece[HEADER_LEN..].to_vec()).collect();
        prop_assert_eq!(bytes, packet);
    }

    /// Several packets at once: pieces shuffled, some of them lost, some duplicated.
    #[test]
    fn pieces_in_any_order_are_reassembled(
        lens in vec(1..1500_usize, 1..20),
        max in 60..700_usize,
        order in vec((any::<Index>(), any::<Index>()), 0..200),
        lost in vec(any::<Index>(), 0..5),
        twice in vec(any::<Index>(), 0..5),
    ) {
        let packets: HashMap<u32, Vec<u8>> =
            lens.iter().enumerate().map(|(id, len)| (id as u32, packet(*len, id as u8))).collect();
        let mut sent: Vec<Bytes> = packets.iter().flat_map(|(id, packet)| pieces(packet, max, *id)).collect();
        let again: Vec<Bytes> = twice.iter().map(|index| index.get(&sent).clone()).collect();
        for index in lost {
            let index = index.index(sent.len());
            sent.remove(index);
            if sent.is_empty() {
                return Ok(());
            }
        }
        sent.extend(again);
        for (from, to) in order {
            let (from, to) = (from.index(sent.len()), to.index(sent.len()));
            sent.swap(from, to);
        }

        let now = Instant::now();
        let mut reassembler = Reassembler::new(1500);
        let mut whole: HashMap<u32, Bytes> = HashMap::new();
        for piece in &sent {
            if let Some(done) = reassembler.push(now, piece, false).unwrap() {
                whole.insert(u32::from_be_bytes(piece[2..6].try_into().unwrap()), done.packet);
            }
        }
        for (id, packet) in &packets {
            let complete = pieces(packet, max, *id).iter().all(|piece| sent.contains(piece));
            prop_assert_eq!(whole.get(id).map(|packet| packet.to_vec()), complete.then(|| packet.clone()));
        }
    }

    #[test]
    fn garbage_is_bounded(datagrams in vec((any::<[u8; 8]>(), 0..300_usize, any::<bool>()), 0..300)) {
        let mut now = Instant::now();
        let mut reassembler = Reassembler::new(1500);
        for (mut header, len, likely) in datagrams {
            if likely {
                (header[0], header[2], header[3], header[4], header[6]) = (FRAGMENT, 0, 0, 0, header[6] % 6);
            }
            let datagram = [&header[..], &vec![header[7]; len]].concat();
            now += Duration::from_millis(u64::from(header[5]));
            if let Ok(Some(done)) = reassembler.push(now, &datagram, false) {
                prop_assert!(done.packet.len() <= 1500);
            }
            prop_assert!(reassembler.incomplete() <= 64);
        }
    }
}

struct Fixture {
    now: Instant,
    reassembler: Reassembler,
    packet: Vec<u8>,
    pieces: Vec<Bytes>,
}

/// A reassembler, and a packet of 1,200 bytes in three pieces.
fn fixture() -> Fixture {
    let packet = packet(1200, 1);
    let pieces = pieces(&packet, 408, 0xdead_beef);
    assert_eq!(pieces.len(), 3);
    Fixture { now: Instant::now(), reassembler: Reassembler::new(1500), packet, pieces }
}

#[test]
fn the_format_is_as_documented() {
    let pieces = pieces(&[1, 2, 3, 4, 5], 11, 0x0102_0304);
    assert_eq!(pieces, [&[1, 0, 1, 2, 3, 4, 0, 0, 1, 2, 3][..], &[1, 1, 1, 2, 3, 4, 0, 3, 4, 5]]);
}

#[test]
fn a_packet_that_fits_is_one_piece_and_an_impossible_size_is_refused() {
    assert_eq!(pieces(&[7; 100], 108, 1).len(), 1);
    assert_eq!(pieces(&[7; 100], 107, 1).len(), 2);
    assert!(fragment(&[], 100, 1).is_none());
    assert!(fragment(&[7; 100], HEADER_LEN, 1).is_none());
    assert!(fragment(&[7; 65], HEADER_LEN + 1, 1).is_none());
    assert!(fragment(&[7; 65_536], 65_000, 1).is_none());
}

#[test]
fn duplicates_are_only_counted() {
    let Fixture { now, mut reassembler, packet, pieces } = fixture();
    for piece in [&pieces[2], &pieces[0], &pieces[2], &pieces[0]] {
        assert_eq!(reassembler.push(now, piece, false), Ok(None));
    }
    let done = reassembler.push(now, &pieces[1], false).unwrap().unwrap();
    assert_eq!(done.packet, packet);
    assert_eq!(
        reassembler.counters(),
        Counters { reassembled: 1, duplicate: 2, ..Counters::default() }
    );
    assert_eq!(reassembler.incomplete(), 0);
}

#[test]
fn one_marked_piece_marks_the_packet() {
    for marked in 0..3 {
        let Fixture { now, mut reassembler, pieces, .. } = fixture();
        let done = (0..3)
            .filter_map(|index| reassembler.push(now, &pieces[index], index == marked).unwrap())
            .next();
        assert!(done.unwrap().ce);
    }
}

#[test]
fn pieces_that_contradict_each_other_drop_the_packet() {
    type Change = fn(&mut Vec<u8>);
    let contradictions: [(&str, Change); 6] = [
        ("overlaps the one before", |piece| piece[7] -= 1),
        ("overlaps the one behind", |piece| piece.push(1)),
        ("has other bytes", |piece| {
            piece[6..8].fill(0);
            piece[HEADER_LEN] ^= 1;
        }),
        ("ends before what is known", |piece| piece[1] = 1),
        ("continues after the end", |piece| piece[6..8].copy_from_slice(&1200_u16.to_be_bytes())),
        ("ends the packet without saying so", |piece| {
            piece[6..8].copy_from_slice(&800_u16.to_be_bytes())
        }),
    ];
    for (what, change) in contradictions {
        let Fixture { now, pieces, .. } = fixture();
        let mut reassembler = Reassembler::new(9000);
        reassembler.push(now, &pieces[0], false).unwrap();
        reassembler.push(now, &pieces[2], false).unwrap();
        let mut bad = pieces[1].to_vec();
        change(&mut bad);
        assert_eq!(reassembler.push(now, &bad, false), Err(Rejected::Inconsistent), "{what}");
        assert_eq!(reassembler.incomplete(), 0, "{what}");
        assert_eq!(reassembler.counters().inconsistent, 1, "{what}");
    }
}

#[test]
fn every_piece_that_reaches_the_end_must_be_marked_as_the_last() {
    for flags in [[0, 1], [1, 0]] {
        let Fixture { now, mut reassembler, pieces, .. } = fixture();
        let [first, second] = flags.map(|flags| {
            let mut piece = pieces[2].to_vec();
            piece[1] = flags;
            piece
        });
        assert_eq!(reassembler.push(now, &first, false), Ok(None));
        assert_eq!(reassembler.push(now, &second, false), Err(Rejected::Inconsistent));
    }
}

#[test]
fn pieces_that_are_too_large_or_malformed_are_counted() {
    let Fixture { now, mut reassembler, pieces, .. } = fixture();
    let mut far = pieces[0].to_vec();
    far[6..8].copy_from_slice(&1101_u16.to_be_bytes());
    assert_eq!(reassembler.push(now, &far, false), Err(Rejected::TooLarge));
    assert_eq!(reassembler.push(now, &pieces[0][..HEADER_LEN], false), Err(Rejected::Malformed));
    assert_eq!(reassembler.push(now, &[0x45; 60], false), Err(Rejected::Malformed));
    assert_eq!(
        reassembler.counters(),
        Counters { too_large: 1, malformed: 2, ..Counters::default() }
    );
}

#[test]
fn more_than_64_pieces_are_refused() {
    let Fixture { now, mut reassembler, .. } = fixture();
    for offset in 0..=64_u8 {
        let result = reassembler.push(now, &[FRAGMENT, 0, 0, 0, 0, 1, 0, offset * 2, 9], false);
        assert_eq!(result, if offset < 64 { Ok(None) } else { Err(Rejected::TooLarge) });
    }
}

#[test]
fn an_incomplete_packet_is_dropped_after_a_second() {
    let Fixture { now, mut reassembler, pieces, .. } = fixture();
    assert_eq!(reassembler.next_expiry(), None);
    reassembler.push(now, &pieces[0], false).unwrap();
    assert_eq!(reassembler.next_expiry(), Some(now + TIMEOUT));
    reassembler.expire(now + TIMEOUT - Duration::from_nanos(1));
    assert_eq!(reassembler.incomplete(), 1);
    assert_eq!(reassembler.push(now + TIMEOUT, &pieces[1], false), Ok(None));
    assert_eq!(reassembler.push(now + TIMEOUT, &pieces[2], false), Ok(None));
    assert_eq!(reassembler.counters(), Counters { timed_out: 1, ..Counters::default() });
}

#[test]
fn the_oldest_packet_is_dropped_for_a_65th() {
    let Fixture { now, mut reassembler, .. } = fixture();
    for id in 0..65 {
        reassembler.push(now, &pieces(&[5; 20], 18, id)[0], false).unwrap();
    }
    assert_eq!((reassembler.incomplete(), reassembler.counters().evicted), (64, 1));
    assert!(reassembler.push(now, &pieces(&[5; 20], 18, 1)[1], false).unwrap().is_some());
    assert!(reassembler.push(now, &pieces(&[5; 20], 18, 0)[1], false).unwrap().is_none());
}

#[test]
fn incomplete_large_packets_take_256_kib_at_most() {
    let mut reassembler = Reassembler::new(65_535);
    for id in 0..10 {
        reassembler.push(Instant::now(), &pieces(&[5; 60_000], 40_000, id)[0], false).unwrap();
    }
    assert_eq!(reassembler.incomplete(), 4);
}
