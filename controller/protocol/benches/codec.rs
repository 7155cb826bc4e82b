//! Times of encoding and decoding frames: `cargo bench -p cframe-protocol --bench codec`.

#![allow(clippy::unwrap_used, reason = "a benchmark")]

#[path = "../tests/messages/samples.rs"]
#[expect(dead_code, reason = "the snapshots use all of it")]
mod samples;

use std::hint::black_box;

use cframe_pki::identity::Label;
use cframe_protocol::{
    frame::{Decoder, Incoming, MAX_FRAME, Message, encode},
    v1::*,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};

criterion_group!(benches, frames);
criterion_main!(benches);

fn frames(c: &mut Criterion) {
    both(c, "ping", &Ping { nonce: 7, version: Some(samples::version()) });
    both(c, "one prefix changed", &update(1));
    both(c, "250 prefixes of a snapshot", &update(250));
    both(c, "a report of 500 links", &report(Report::MAX_LINKS));
}

fn both<M: Message + Incoming>(c: &mut Criterion, name: &str, message: &M) {
    let bytes = encode(message).unwrap();
    let mut group = c.benchmark_group(format!("{name}, {} bytes", bytes.len()));
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |b| b.iter(|| encode(black_box(message)).map(|f| f.len())));
    group.bench_function("decode", |b| {
        b.iter(|| {
            let mut decoder = Decoder::new(MAX_FRAME);
            decoder.push(black_box(&bytes));
            M::parse(&decoder.next_frame().unwrap().unwrap()).unwrap().is_some()
        });
    });
    group.finish();
}

fn update(prefixes: u32) -> Update {
    let changes = (0..prefixes).map(|index| Change::Prefix { net: net(index), owner: edge(index) });
    Update {
        from: Some(samples::version()),
        to: Version { namespace: 18, ..samples::version() },
        changes: changes.collect(),
        last: true,
    }
}

fn report(links: usize) -> Report {
    let report = samples::report();
    let links = report.links.iter().cycle().take(links).cloned().collect();
    Report { links, ..report }
}

fn net(index: u32) -> IpNet {
    Ipv4Net::new((0x0a00_0000 + (index << 8)).into(), 24).unwrap().into()
}

fn edge(index: u32) -> Label {
    format!("edge-{:04}", index % 500).parse().unwrap()
}
