//! Decoding any frame allocates at most 64 KiB besides the frame itself.

#![allow(clippy::unwrap_used, reason = "tests")]

mod counting;
#[path = "../messages/samples.rs"]
#[expect(dead_code, reason = "the snapshots use all of it")]
mod samples;

use bytes::Bytes;
use cframe_pki::{CertificateDer, Fingerprint, bundle::TrustBundle};
use cframe_protocol::{
    frame::{BUDGET, Frame, Incoming, MAX_FRAME, Message, encode_within},
    v1::*,
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

const KINDS: [u16; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 21, 40, 41, 999];
/// Messages of edges and admins, for which the limit is exact. In messages of controllers a SPIFFE ID is
/// charged as one string and takes up to three.
const TO_CONTROLLERS: [u16; 8] = [1, 3, 4, 5, 6, 7, 20, 40];
const SLACK: usize = BUDGET / 16;

#[test]
fn garbage_allocates_little() {
    let mut runner = TestRunner::new(Config::with_cases(2000));
    let body = prop_oneof![
        vec(any::<u8>(), 0..200),
        vec(prop_oneof![Just(0u8), Just(1), 0..20u8, 250..=255u8], 0..4000),
    ];
    runner
        .run(&(prop::sample::select(&KINDS[..]), body), |(kind, body)| {
            assert_bounded("garbage", &Frame { kind, body: body.into() });
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_length_that_a_list_claims_is_not_trusted() {
    // A varint of 4 billion, put at every place of every message.
    let claim = [0xfc, 0xff, 0xff, 0xff, 0xff];
    for sample in samples::all() {
        let body = &sample.bytes[6..];
        for at in 0..=body.len() {
            let body = [&body[..at], &claim].concat();
            assert_bounded(&sample.name, &frame(&sample.bytes, body.into()));
        }
    }
}

#[test]
fn messages_cut_off_or_with_a_wrong_byte_allocate_little() {
    for sample in samples::all() {
        for at in 6..sample.bytes.len() {
            assert_bounded(&sample.name, &frame(&sample.bytes, sample.bytes.slice(6..at)));
            for wrong in [0, 0x7f, 0xfb, 0xfd, 0xff] {
                let mut body = sample.bytes[6..].to_vec();
                body[at - 6] = wrong;
                assert_bounded(&sample.name, &frame(&sample.bytes, body.into()));
            }
        }
    }
}

#[test]
fn the_largest_lists_of_the_smallest_elements_are_refused_in_time() {
    let name: cframe_pki::identity::Label = "a".parse().unwrap();
    let endpoint: Endpoint = "a:1".parse().unwrap();
    let net: ipnet::IpNet = "0.0.0.0/0".parse().unwrap();
    let link = LinkReport { peer: name.clone(), up: true, rtt_us: 1, path_mtu: 1, since_unix: 1 };
    bomb("links", &Report { links: vec![link.clone(); 20_000], ..samples::report() });
    bomb("csr", &RenewRequest { csr: vec![0; 70_000] });
    bomb("software", &EdgeHello { have: None, software: "x".repeat(70_000), boot: [0; 16] });
    for change in samples::changes().into_iter().map(|(_, change)| change) {
        let (from, to) = (None, Version::default());
        bomb("changes", &Update { from, to, changes: vec![change; 20_000], last: true });
    }
    let state = EdgeState { endpoints: vec![endpoint.clone()], joined: true };
    let change = Change::Edge { name: name.clone(), state };
    let (from, to) = (None, Version::default());
    bomb("edges", &Update { from, to, changes: vec![change; 20_000], last: true });
    bomb("nets", &Enrolled { site_prefixes: vec![net; 20_000], ..samples::enrolled() }.reply());
    bomb("chain", &Enrolled { chain: vec![vec![]; 70_000], ..samples::enrolled() }.reply());
    bomb("bytes", &Enrolled { chain: vec![vec![1]; 70_000], ..samples::enrolled() }.reply());
    let roots = vec![CertificateDer::from(vec![1u8]); 40_000];
    let trust = TrustBundle { roots, ..TrustBundle::default() };
    bomb("roots", &Enrolled { trust, ..samples::enrolled() }.reply());
    let cidrs = vec![net; 20_000];
    let endpoints = vec![endpoint; 20_000];
    let description = String::new();
    let (namespace, edge) = (name.clone(), name.clone());
    bomb(
        "edge-add",
        &AdminRequest {
            call: Call::EdgeAdd { namespace, name: edge, cidrs, endpoints, description },
            dry_run: false,
        },
    );
    for (_, reply) in samples::replies() {
        bomb("rows", &AdminReply { result: Ok(many(reply)) });
    }
    let mut row = samples::edge_rows().remove(2);
    row.links = vec![link; 20_000];
    bomb("links of a row", &AdminReply { result: Ok(Reply::Edges(vec![row])) });
}

#[test]
fn the_largest_report_is_within_the_limit_and_readable() {
    let link = |n: usize| LinkReport {
        peer: format!("{n:0>63}").parse().unwrap(),
        up: true,
        rtt_us: u32::MAX,
        path_mtu: u16::MAX,
        since_unix: u64::MAX,
    };
    let report = Report { links: (0..Report::MAX_LINKS).map(link).collect(), ..samples::report() };
    let bytes = encode_within(&report, MAX_FRAME).unwrap();
    let frame = frame(&bytes, bytes.slice(6..));
    assert_bounded("largest report", &frame);
    assert_eq!(frame.decode::<Report>().unwrap(), report);
}

#[test]
fn a_set_takes_more_than_a_list_and_is_charged_for_it() {
    // Nodes of a B-tree that was filled in order are half empty.
    let print = |n: usize| {
        let mut bytes = [0; 32];
        bytes[24..].copy_from_slice(&n.to_be_bytes());
        Fingerprint::from_bytes(bytes)
    };
    for count in [11, 12, 16, 100, 512, 513, 700, 1000, 1024, 1500, 2000] {
        let revoked_issuers = (0..count).map(print).collect();
        let trust = TrustBundle { roots: Vec::new(), revoked_issuers };
        let bytes =
            encode_within(&AdminReply { result: Ok(Reply::Trust(trust)) }, usize::MAX).unwrap();
        let (_, peak) = read(&frame(&bytes, bytes.slice(6..)));
        assert!(peak <= BUDGET + BUDGET / 4, "{count} issuers took {peak} bytes");
    }
}

trait InReply {
    fn reply(self) -> RenewReply;
}

impl InReply for Enrolled {
    fn reply(self) -> RenewReply {
        RenewReply { result: Ok(self) }
    }
}

/// The reply with its first row repeated.
fn many(reply: Reply) -> Reply {
    const MANY: usize = 20_000;
    match reply {
        Reply::Namespaces(rows) => Reply::Namespaces(vec![rows[0].clone(); MANY]),
        Reply::Edges(rows) => Reply::Edges(vec![rows[0].clone(); MANY]),
        Reply::Routes(rows) => Reply::Routes(vec![rows[0].clone(); MANY]),
        Reply::Tokens(rows) => Reply::Tokens(vec![rows[0].clone(); MANY]),
        Reply::Certs(rows) => Reply::Certs(vec![rows[0].clone(); MANY]),
        Reply::Admins(rows) => Reply::Admins(vec![rows[0].clone(); MANY]),
        Reply::Audit(rows) => Reply::Audit(vec![rows[0].clone(); MANY]),
        Reply::Holders(rows) => Reply::Holders(vec![rows[0].clone(); MANY]),
        Reply::Ca(status) => Reply::Ca(CaStatus {
            roots: vec![status.roots[0].clone(); MANY],
            issuers: vec![status.issuers[0].clone(); MANY],
            ..status
        }),
        Reply::Status(status) => Reply::Status(MeshStatus {
            namespaces: vec![status.namespaces[0].clone(); MANY],
            controllers: vec![status.controllers[0].clone(); MANY],
            problems: vec![status.problems[0].clone(); MANY],
            ..status
        }),
        Reply::Progress(progress) => Reply::Progress(Progress {
            waiting: vec![progress.waiting[0].clone(); MANY],
            ..progress
        }),
        Reply::Changed(changed) => {
            Reply::Changed(Changed { warnings: vec![String::new(); MANY], ..changed })
        }
        Reply::Chunk(_) => Reply::Chunk(vec![1; 70_000]),
        Reply::Controllers(rows) => Reply::Controllers(vec![rows[0].clone(); MANY]),
        Reply::Sessions(rows) => Reply::Sessions(vec![rows[0].clone(); MANY]),
        Reply::Behind(behind) => {
            Reply::Behind(Behind { names: vec![behind.names[0].clone(); MANY], ..behind })
        }
        Reply::Unheard(names) => Reply::Unheard(vec![names[0].clone(); MANY]),
        other @ (Reply::TokenMade(_)
        | Reply::Enrolled(_)
        | Reply::AdminEnrolled(_)
        | Reply::Trust(_)
        | Reply::Version { .. }) => other,
    }
}

/// A message that is too large, cut to every power of two and to the largest frame.
fn bomb<M: Message>(name: &str, message: &M) {
    let bytes = encode_within(message, usize::MAX).unwrap();
    let most = (MAX_FRAME - 2).min(bytes.len() - 6);
    for len in (7..16).map(|power| 1 << power).chain([most]) {
        let body = bytes.slice(6..6 + len.min(most));
        assert_bounded(name, &Frame { kind: M::TYPE, body });
    }
}

fn frame(whole: &Bytes, body: Bytes) -> Frame {
    Frame { kind: u16::from_be_bytes([whole[4], whole[5]]), body }
}

fn assert_bounded(name: &str, frame: &Frame) {
    let (_, peak) = read(frame);
    let slack = if TO_CONTROLLERS.contains(&frame.kind) { 0 } else { SLACK };
    assert!(
        peak <= BUDGET + slack,
        "{name}: a body of {} bytes, type {}, took {peak}",
        frame.body.len(),
        frame.kind
    );
}

/// Decodes the frame as every message, and returns the maximum allocation.
fn read(frame: &Frame) -> (bool, usize) {
    counting::peak(|| {
        FromEdge::parse(frame).is_ok_and(|m| m.is_some())
            | ToEdge::parse(frame).is_ok_and(|m| m.is_some())
            | EnrollRequest::parse(frame).is_ok_and(|m| m.is_some())
            | EnrollReply::parse(frame).is_ok_and(|m| m.is_some())
            | AdminRequest::parse(frame).is_ok_and(|m| m.is_some())
            | AdminReply::parse(frame).is_ok_and(|m| m.is_some())
    })
}
