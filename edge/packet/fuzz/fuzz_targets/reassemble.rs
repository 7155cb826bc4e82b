//! Any fragments in any order and time: bounded, no panic, no packet larger than allowed.
#![no_main]

use std::time::{Duration, Instant};

use cframe_packet::fragment::{FRAGMENT, Reassembler};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut now = Instant::now();
    let mut reassembler = Reassembler::new(1500);
    let mut rest = data;
    // Length, milliseconds and flags, id, offset, and bytes of that length.
    while let Some((&[len, later, id, high, low], tail)) = rest.split_first_chunk() {
        let (bytes, tail) = tail.split_at(usize::from(len).min(tail.len()));
        rest = tail;
        now += Duration::from_millis(u64::from(later >> 1) * 4);
        let header = [FRAGMENT, later & 1, 0, 0, 0, id, high % 8, low];
        match reassembler.push(now, &[&header, bytes].concat(), false) {
            Ok(Some(done)) => assert!((1..=1500).contains(&done.packet.len())),
            Ok(None) | Err(_) => {}
        }
        assert!(reassembler.incomplete() <= 64);
    }
    let _ = reassembler.push(now, data, true);
    reassembler.expire(now + Duration::from_secs(1));
    assert_eq!(reassembler.incomplete(), 0);
});
