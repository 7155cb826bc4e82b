use cframe_packet::mss::clamp_mss;
use proptest::{collection::vec, prelude::*};

use crate::build::{ACK, SYN, Spec, Transport, has_valid_checksums};

fn tcp(v6: bool, flags: u8, options: Vec<u8>) -> Spec {
    let transport =
        Transport::Tcp { sequence: 1, acknowledged: 2, flags, window: 3, urgent: 0, options };
    Spec { v6, transport, ..Spec::tcp(vec![8; 5]) }
}

/// TCP options: `before`, then the MSS, padded to whole words.
fn options(before: &[u8], mss: u16) -> Vec<u8> {
    let mut options = [before, &[2, 4], &mss.to_be_bytes(), &[4, 2]].concat();
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

proptest! {
    #[test]
    fn a_lowered_mss_is_all_that_changes(
        v6: bool,
        synack: bool,
        mss: u16,
        max_packet in 0..70_000_usize,
        before in prop_oneof![Just(vec![]), Just(vec![1]), Just(vec![1, 1]), Just(vec![3, 3, 7]), Just(vec![8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1])],
    ) {
        let flags = if synack { SYN | ACK } else { SYN };
        let max = max_packet.saturating_sub(if v6 { 60 } else { 40 }).min(65_535) as u16;
        let mut packet = tcp(v6, flags, options(&before, mss)).build();
        prop_assert_eq!(clamp_mss(&mut packet, max_packet), mss > max);
        prop_assert!(has_valid_checksums(&packet));
        prop_assert_eq!(packet, tcp(v6, flags, options(&before, mss.min(max))).build());
    }

    #[test]
    fn only_a_syn_is_changed(v6: bool, flags in any::<u8>()) {
        let before = tcp(v6, flags & !SYN, options(&[], 9000)).build();
        let mut packet = before.clone();
        prop_assert!(!clamp_mss(&mut packet, 1400));
        prop_assert_eq!(packet, before);
    }

    #[test]
    fn any_options_leave_the_checksum_valid(v6: bool, raw in vec(any::<[u8; 4]>(), 0..=10), max_packet in 60..2000_usize) {
        let mut packet = tcp(v6, SYN, raw.concat()).build();
        clamp_mss(&mut packet, max_packet);
        prop_assert!(has_valid_checksums(&packet));
    }

    #[test]
    fn garbage_never_panics(v6: bool, raw in vec(any::<u8>(), 0..60), protocol in prop_oneof![Just(6_u8), any::<u8>()]) {
        let mut packet = Spec { v6, ..Spec::udp(raw.clone()) }.build();
        packet[if v6 { 6 } else { 9 }] = protocol;
        let start = packet.len() - raw.len() - 8;
        packet.drain(start..start + 8);
        let len = packet.len() as u16;
        let (at, len) = if v6 { (4, len - 40) } else { (2, len) };
        packet[at..at + 2].copy_from_slice(&len.to_be_bytes());
        clamp_mss(&mut packet, 1400);
        clamp_mss(&mut packet[..raw.len()], 1400);
    }
}

#[test]
fn a_syn_behind_extension_headers_is_clamped() {
    let spec = |mss| Spec { ip_options: true, ..tcp(true, SYN, options(&[], mss)) };
    let mut packet = spec(8940).build();
    assert!(clamp_mss(&mut packet, 1400));
    assert_eq!(packet, spec(1340).build());
}

#[test]
fn options_that_run_past_the_header_stay_unchanged() {
    for bad in [vec![2, 4, 0xff], vec![3, 0], vec![8, 200], vec![2, 3, 0xff]] {
        let mut options = bad;
        options.splice(0..0, vec![1; 4 - options.len()]);
        let mut packet = tcp(false, SYN, options).build();
        assert!(!clamp_mss(&mut packet, 500));
    }
}
