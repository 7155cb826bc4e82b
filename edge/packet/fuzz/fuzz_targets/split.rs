//! Any virtio header before any packet: an error, or packets that parse and carry all of the
//! payload.
#![no_main]

use cframe_packet::{ip::Packet, split::Splitter, vnet::VnetHeader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((header, rest)) = VnetHeader::parse(data) else { return };
    let mut bytes = rest.to_vec();
    state_length(&mut bytes);
    let Ok(packet) = Packet::parse(&bytes) else { return };
    let Ok(packets) = Splitter::default().split(&header, &packet, 1400) else { return };
    let count = packets.len();
    let packets: Vec<_> = packets.collect();
    assert_eq!(packets.len(), count);
    // A checksum to be completed may lie anywhere, also in the IP header.
    if header.gso_type == VnetHeader::GSO_NONE {
        assert_eq!(packets[0].len(), bytes.len());
        return;
    }
    for segment in &packets {
        let segment = Packet::parse(segment).expect("a segment is a packet");
        assert_eq!(segment.flow(), packet.flow());
    }
});

/// Writes the right length into the header, so that inputs pass that check.
fn state_length(bytes: &mut [u8]) {
    let len = bytes.len();
    match bytes.first().map(|first| first >> 4) {
        Some(4) if len >= 20 => bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes()),
        Some(6) if len >= 40 => bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes()),
        _ => {}
    }
}
