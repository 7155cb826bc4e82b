//! Any bytes: parsing, ECN and MSS clamping accept the same packets and never panic.
#![no_main]

use cframe_packet::{ecn::apply_ecn, ip::Packet, mss::clamp_mss};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    let Ok(packet) = Packet::parse(data) else {
        assert!(!clamp_mss(&mut bytes, 1400));
        let _ = apply_ecn(&mut bytes, true);
        return;
    };
    assert!(packet.transport_offset() <= data.len());
    let flow = packet.flow();
    let _ = apply_ecn(&mut bytes, true);
    let _ = clamp_mss(&mut bytes, 1400);
    let after = Packet::parse(&bytes).expect("marking and clamping leave a packet");
    assert_eq!(after.flow(), flow);
});
