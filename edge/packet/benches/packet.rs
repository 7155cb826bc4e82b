//! Time per operation: `cargo bench -p cframe-packet`.

#![allow(clippy::disallowed_methods)]

use std::{hint::black_box, io::IoSlice, time::Instant};

use bytes::Bytes;
use cframe_packet::{
    checksum::Sum,
    coalesce::Coalescer,
    fragment::{Reassembler, fragment},
    ip::Packet,
    split::Splitter,
    vnet::VnetHeader,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

criterion_group!(benches, checksums, splitting, coalescing, fragments);
criterion_main!(benches);

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [40, 1400, 65_000] {
        let bytes = vec![0x5a; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(len.to_string(), |b| b.iter(|| Sum::of(black_box(&bytes)).fold()));
    }
    group.finish();
    let packet = tcp(1, 0, 1348);
    c.bench_function("parse", |b| {
        b.iter(|| Packet::parse(black_box(&packet)).map(|packet| packet.flow()))
    });
}

fn splitting(c: &mut Criterion) {
    let mut group = c.benchmark_group("split");
    let mut splitter = Splitter::default();
    let super_packet = tcp(1, 0, 65_000);
    let header = VnetHeader { gso_type: VnetHeader::GSO_TCPV4, gso_size: 1348, ..tcp_offload() };
    group.throughput(Throughput::Bytes(super_packet.len() as u64));
    group.bench_function("TCP, 65,000 bytes into 49", |b| {
        b.iter(|| split_all(&mut splitter, &header, black_box(&super_packet)))
    });

    let datagrams = udp(1, 64 * 64);
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::GSO_UDP_L4,
        gso_size: 64,
        csum_start: 20,
        csum_offset: 6,
        header_len: 28,
    };
    group.throughput(Throughput::Elements(64));
    group.bench_function("UDP, 64 x 64 bytes", |b| {
        b.iter(|| split_all(&mut splitter, &header, black_box(&datagrams)))
    });

    let packet = tcp(1, 0, 1348);
    group.throughput(Throughput::Elements(1));
    group.bench_function("one packet, checksum to complete", |b| {
        b.iter(|| split_all(&mut splitter, &tcp_offload(), black_box(&packet)));
    });
    group.finish();
}

fn split_all(splitter: &mut Splitter, header: &VnetHeader, bytes: &[u8]) -> usize {
    let Ok(packet) = Packet::parse(bytes) else { return 0 };
    let packets = splitter.split(header, &packet, 1400);
    packets.map_or(0, |packets| packets.map(|packet| black_box(packet).len()).sum())
}

fn coalescing(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce");
    for flows in [1, 64] {
        let packets: Vec<Bytes> =
            (0..44).flat_map(|index| (0..flows).map(move |flow| tcp(flow, index, 1360))).collect();
        group.throughput(Throughput::Elements(packets.len() as u64));
        let mut coalescer = Coalescer::new(1, true);
        group.bench_function(format!("44 x 1400 bytes, {flows} flows"), |b| {
            b.iter(|| coalesce_all(&mut coalescer, &packets));
        });
    }
    let packets: Vec<Bytes> = (0..44).map(|_| udp(1, 64)).collect();
    group.throughput(Throughput::Elements(packets.len() as u64));
    let mut coalescer = Coalescer::new(1, true);
    group
        .bench_function("44 UDP x 64 bytes", |b| b.iter(|| coalesce_all(&mut coalescer, &packets)));
    let packets: Vec<Bytes> = (0..44).map(|flow| tcp(flow, 0, 0)).collect();
    group.bench_function("44 pure ACKs", |b| b.iter(|| coalesce_all(&mut coalescer, &packets)));
    group.finish();
}

fn coalesce_all(coalescer: &mut Coalescer, packets: &[Bytes]) -> usize {
    let mut writes = 0;
    let mut write = |slices: &[IoSlice<'_>]| writes += usize::from(!black_box(slices).is_empty());
    for packet in packets {
        coalescer.push(packet.clone(), &mut write);
    }
    coalescer.flush(&mut write);
    writes
}

fn fragments(c: &mut Criterion) {
    let packet = vec![0x45; 1500];
    c.bench_function("fragment 1500 bytes into 2", |b| {
        b.iter(|| {
            fragment(black_box(&packet), 1252, 7).map(|pieces| pieces.map(black_box).count())
        });
    });
    let mut reassembler = Reassembler::new(1500);
    let pieces: Vec<Bytes> = fragment(&packet, 1252, 7).into_iter().flatten().collect();
    let now = Instant::now();
    c.bench_function("reassemble 1500 bytes from 2", |b| {
        b.iter(|| {
            pieces
                .iter()
                .filter_map(|piece| reassembler.push(now, piece, false).ok().flatten())
                .count()
        });
    });
}

fn tcp_offload() -> VnetHeader {
    VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        csum_start: 20,
        csum_offset: 16,
        header_len: 40,
        ..VnetHeader::default()
    }
}

/// Segment `index` of flow `flow`, with valid checksums.
fn tcp(flow: u8, index: u16, payload: usize) -> Bytes {
    let mut header = [0; 20];
    header[..4].copy_from_slice(&[0x9c, flow, 0x14, 0x51]);
    header[4..8].copy_from_slice(&(u32::from(index) * payload as u32).to_be_bytes());
    header[12..16].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
    ipv4(6, index, &header, 16, payload)
}

fn udp(flow: u8, payload: usize) -> Bytes {
    let [high, low] = (8 + payload as u16).to_be_bytes();
    ipv4(17, 0, &[0x9c, flow, 0x14, 0x51, high, low, 0, 0], 6, payload)
}

fn ipv4(protocol: u8, id: u16, transport: &[u8], checksum: usize, payload: usize) -> Bytes {
    let len = (transport.len() + payload) as u16;
    let mut packet =
        vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 172, 18, 0, 1, 172, 30, 0, 1];
    packet[2..4].copy_from_slice(&(20 + len).to_be_bytes());
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    let sum = Sum::of(&packet).checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(transport);
    packet.resize(20 + usize::from(len), 0x5a);
    let sum = Sum::of(&packet[12..]).word(protocol.into()).word(len).checksum();
    packet[20 + checksum..22 + checksum].copy_from_slice(&sum.to_be_bytes());
    packet.into()
}
