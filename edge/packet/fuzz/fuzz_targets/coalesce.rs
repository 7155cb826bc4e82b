//! Packets of a few flows, each a slight change of the one before: segmenting the merged packets
//! gives back every one of them.
#![no_main]

use std::io::IoSlice;

use cframe_packet::{
    checksum::Sum, coalesce::Coalescer, ip::Packet, split::Splitter, vnet::VnetHeader,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut flows = [template(4, 6), template(6, 6), template(4, 17), template(6, 17)];
    let mut sent = Vec::new();
    let mut writes: Vec<Vec<u8>> = Vec::new();
    let mut coalescer = Coalescer::new(1, true);
    let mut write = |slices: &[IoSlice<'_>]| {
        writes.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
    };
    // Flow and flags, the byte to change, the bits to flip in it, payload length.
    for_each_chunk(data, |[flow, at, change, len]| {
        let packet = next(&mut flows[usize::from(flow % 4)], flow, at, change, len);
        if flow & 0x80 != 0 && change == 0 {
            coalescer.flush(&mut write);
        }
        sent.push(packet.clone());
        coalescer.push(packet.into(), &mut write);
    });
    coalescer.flush(&mut write);
    let mut received: Vec<Vec<u8>> = writes.iter().flat_map(|write| segment_write(write)).collect();
    for packet in sent.iter_mut().chain(&mut received) {
        clear_id(packet);
    }
    sent.sort();
    received.sort();
    assert_eq!(sent, received);
});

fn for_each_chunk(data: &[u8], mut each: impl FnMut([u8; 4])) {
    for chunk in data.as_chunks().0 {
        each(*chunk);
    }
}

/// The headers of a flow.
fn template(version: u8, protocol: u8) -> Vec<u8> {
    let mut headers = match version {
        4 => vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2],
        _ => {
            let mut headers = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            headers.extend([0xfd; 32]);
            headers
        }
    };
    headers.extend([0x13, 0x88, 0x01, 0xbb]);
    match protocol {
        6 => headers.extend([0, 0, 0, 9, 0, 0, 0, 7, 0x60, 0x10, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1]),
        _ => headers.extend([0; 4]),
    }
    headers
}

/// The flow's next packet: id and sequence number increase, `change` is applied to the byte at
/// `at`.
fn next(headers: &mut [u8], flags: u8, at: u8, change: u8, len: u8) -> Vec<u8> {
    let ip_len = if flags.is_multiple_of(2) { 20 } else { 40 };
    let payload = if flags & 0x10 != 0 { 100 } else { usize::from(len) };
    let lasting = flags & 0x20 != 0;
    let at = usize::from(at) % headers.len();
    let before = headers.to_vec();
    headers[at] ^= change;
    let mut packet = [&headers[..], &vec![at as u8; payload]].concat();
    if !lasting {
        headers.copy_from_slice(&before);
    }
    if flags & 0x40 == 0 {
        finish(&mut packet, ip_len);
    }
    if ip_len == 20 {
        add(&mut headers[4..6], 1);
    }
    if headers.len() - ip_len == 24 {
        add(&mut headers[ip_len + 4..ip_len + 8], payload as u32);
    }
    packet
}

fn add(field: &mut [u8], by: u32) {
    let mut carry = by;
    for byte in field.iter_mut().rev() {
        carry += u32::from(*byte);
        *byte = carry as u8;
        carry >>= 8;
    }
}

/// Writes lengths and checksums.
fn finish(packet: &mut [u8], ip_len: usize) {
    let len = (packet.len() - ip_len) as u16;
    let (addresses, protocol) = if ip_len == 20 {
        packet[2..4].copy_from_slice(&(20 + len).to_be_bytes());
        packet[10..12].fill(0);
        let checksum = Sum::of(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        (12..20, packet[9])
    } else {
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        (8..40, packet[6])
    };
    let field = ip_len + if protocol == 17 { 6 } else { 16 };
    if protocol == 17 {
        packet[ip_len + 4..ip_len + 6].copy_from_slice(&len.to_be_bytes());
    }
    if packet.len() < field + 2 {
        return;
    }
    packet[field..field + 2].fill(0);
    let sum = Sum::of(&packet[addresses]).word(protocol.into()).word(len);
    let checksum = match sum.and(Sum::of(&packet[ip_len..])).checksum() {
        0 if protocol == 17 => 0xffff,
        checksum => checksum,
    };
    packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn segment_write(write: &[u8]) -> Vec<Vec<u8>> {
    let (header, bytes) = VnetHeader::parse(write).expect("every write has a header");
    if header == VnetHeader::default() {
        return vec![bytes.to_vec()];
    }
    let packet = Packet::parse(bytes).expect("a super-packet is a packet");
    let packets = Splitter::default()
        .split(&header, &packet, usize::MAX)
        .expect("a super-packet can be segmented");
    assert!(packets.len() > 1);
    packets.map(|packet| packet.to_vec()).collect()
}

/// Zeroes the id of packets that must not be fragmented: merging may change it (RFC 6864 §4.1).
fn clear_id(packet: &mut [u8]) {
    if packet.len() >= 20 && packet[0] == 0x45 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
}
