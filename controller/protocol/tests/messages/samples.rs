//! One fixed message of every type and variant.

use std::collections::BTreeSet;

use bytes::Bytes;
use cframe_pki::{
    CertificateDer, Fingerprint, Serial,
    bundle::{DenyEntry, TrustBundle},
    identity::Label,
};
use cframe_protocol::{
    frame::{Frame, Incoming, Message, encode},
    problem::{Code, Severity},
    v1::*,
};

#[path = "samples/rows.rs"]
mod rows;

pub(crate) use rows::*;

/// A message and its frame.
pub(crate) struct Sample {
    /// `<type>-<message>[-<variant>]`.
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
    /// Whether a frame, read as this message's type, is this message.
    pub(crate) reads: Box<dyn Fn(&Frame) -> bool>,
}

/// All samples, by type.
pub(crate) fn all() -> Vec<Sample> {
    let mut samples = vec![
        sample("hello-snapshot", hello(None)),
        sample("hello-delta", hello(Some(version()))),
        sample("ack", Ack { version: version() }),
        sample("ping", Ping { nonce: 7, version: None }),
        sample("pong", Pong { nonce: 300, version: Some(version()) }),
        sample("report", report()),
        sample("problems", problems()),
        sample("renew-request", RenewRequest { csr: vec![0x30, 0x82, 1, 0] }),
        sample("renew-reply-ok", RenewReply { result: Ok(enrolled()) }),
        sample("renew-reply-error", RenewReply { result: Err(error(ErrorCode::NotAllowed)) }),
        sample("renew-now", RenewNow {}),
        sample("enroll-request", enroll_request()),
        sample("enroll-reply-ok", EnrollReply { result: Ok(enrolled()) }),
        sample("enroll-reply-error", EnrollReply { result: Err(error(ErrorCode::Invalid)) }),
        sample("admin-request-dry-run", AdminRequest { call: Call::Status, dry_run: true }),
    ];
    let reasons = [
        GoodbyeReason::Shutdown,
        GoodbyeReason::Revoked,
        GoodbyeReason::Removed,
        GoodbyeReason::Replaced,
        GoodbyeReason::InUse,
    ];
    samples
        .extend(reasons.map(|reason| sample(&format!("goodbye-{reason:?}"), Goodbye { reason })));
    samples.extend(changes().into_iter().map(|(name, change)| {
        let update = Update {
            from: Some(version()),
            to: Version { namespace: 18, ..version() },
            changes: vec![change],
            last: true,
        };
        sample(&format!("update-{name}"), update)
    }));
    let first = Update { from: None, to: version(), changes: Vec::new(), last: false };
    samples.push(sample("update-first", first));
    samples.extend(calls().into_iter().map(|call| {
        let name = format!("admin-request-{}", call.name());
        sample(&name, AdminRequest { call, dry_run: false })
    }));
    samples.extend(replies().into_iter().map(|(name, reply)| {
        sample(&format!("admin-reply-{name}"), AdminReply { result: Ok(reply) })
    }));
    samples.extend(codes().map(|code| {
        sample(&format!("admin-reply-error-{code:?}"), AdminReply { result: Err(error(code)) })
    }));
    samples
}

fn sample<M: Message + PartialEq + 'static>(name: &str, message: M) -> Sample {
    Sample {
        name: format!("{:02}-{}", M::TYPE, name.to_lowercase()),
        bytes: encode(&message).unwrap(),
        reads: Box::new(move |frame| M::parse(frame).unwrap().as_ref() == Some(&message)),
    }
}

pub(crate) fn version() -> Version {
    Version { epoch: 1_763_000_000_000, mesh: 4, namespace: 17 }
}

fn hello(have: Option<Version>) -> EdgeHello {
    EdgeHello { have, software: "0.1.0".into(), boot: *b"boot-id-16-bytes" }
}

pub(crate) fn report() -> Report {
    Report {
        links: vec![link("aws-hk"), link("idc")],
        cert_not_after: 1_765_000_000,
        applied: None,
    }
}

pub(crate) fn problems() -> Problems {
    let problem = Problem {
        code: Code::ForwardingOff.into(),
        severity: Severity::Error,
        about: "eth1".into(),
        text: "net.ipv4.conf.eth1.forwarding is 0".into(),
        fix: Some("sysctl -w net.ipv4.conf.eth1.forwarding=1".into()),
        since_unix: 1_763_000_100,
    };
    Problems { problems: vec![problem], more: 2 }
}

fn link(peer: &str) -> LinkReport {
    LinkReport {
        peer: peer.parse().unwrap(),
        up: true,
        rtt_us: 41_000,
        path_mtu: 1452,
        since_unix: 1_763_000_100,
    }
}

fn enroll_request() -> EnrollRequest {
    EnrollRequest { token_id: [1; 16], secret: vec![2; 16], csr: vec![0x30, 3, 2, 1, 0] }
}

pub(crate) fn enrolled() -> Enrolled {
    Enrolled {
        mesh: "corp".parse().unwrap(),
        namespace: "prod".parse().unwrap(),
        edge: "aws-hk".parse().unwrap(),
        chain: vec![vec![0x30, 1], vec![0x30, 2, 2]],
        trust: trust(),
        controllers: vec!["ctl.example.com:58422".parse().unwrap()],
        settings: Settings::default(),
        listen_port: 58423,
        site_prefixes: vec!["172.30.0.0/16".parse().unwrap(), "fd00:60::/64".parse().unwrap()],
    }
}

fn trust() -> TrustBundle {
    TrustBundle {
        roots: vec![CertificateDer::from(vec![0x30, 0xff, 0])],
        revoked_issuers: [Fingerprint::from_bytes([0xab; 32])].into(),
    }
}

fn deny() -> DenyEntry {
    DenyEntry {
        id: "spiffe://corp/ns/prod/edge/idc".parse().unwrap(),
        serial: Serial::from_bytes([9; 16]),
        spki: Fingerprint::from_bytes([0xcd; 32]),
        expires: 1_765_000_000,
    }
}

fn error(code: ErrorCode) -> CallError {
    let hint = (code == ErrorCode::NotFound).then(|| "did you mean aws-hk?".to_owned());
    CallError { code, message: "edge \"aws-hq\" does not exist in prod".into(), hint }
}

fn codes() -> impl Iterator<Item = ErrorCode> {
    [
        ErrorCode::Invalid,
        ErrorCode::NotFound,
        ErrorCode::Conflict,
        ErrorCode::NotAllowed,
        ErrorCode::Unavailable,
        ErrorCode::StoreFull,
        ErrorCode::Internal,
    ]
    .into_iter()
}

/// In the order of their variants.
pub(crate) fn changes() -> Vec<(&'static str, Change)> {
    let controllers: BTreeSet<Endpoint> =
        ["203.0.113.7:58422", "[2001:db8::7]:58422"].map(|e| e.parse().unwrap()).into();
    let state = EdgeState { endpoints: vec!["203.0.113.9:58423".parse().unwrap()], joined: true };
    let name = label("aws-hk");
    vec![
        ("settings", Change::Settings(Settings { tun_mtu: 1500, congestion: Congestion::Bbr })),
        ("trust", Change::Trust(trust())),
        ("controllers", Change::Controllers(controllers)),
        ("denied", Change::Denied(deny())),
        ("not-denied", Change::NotDenied(deny())),
        ("edge", Change::Edge { name: name.clone(), state }),
        ("edge-gone", Change::EdgeGone { name: name.clone() }),
        ("prefix", Change::Prefix { net: "10.244.0.0/16".parse().unwrap(), owner: name }),
        ("prefix-gone", Change::PrefixGone { net: "fd00:60::/64".parse().unwrap() }),
    ]
}

/// In the order of their variants.
pub(crate) fn calls() -> Vec<Call> {
    [namespace_and_edge_calls(), route_and_credential_calls(), mesh_calls()].concat()
}

fn namespace_and_edge_calls() -> Vec<Call> {
    let nets = vec!["172.30.0.0/16".parse().unwrap()];
    let endpoints: Vec<Endpoint> = vec!["203.0.113.9:58423".parse().unwrap()];
    vec![
        Call::Version,
        Call::Status,
        Call::NamespaceAdd {
            name: label("prod"),
            settings: Settings::default(),
            description: "production".into(),
        },
        Call::NamespaceSet {
            name: label("prod"),
            tun_mtu: Some(1500),
            congestion: Some(Congestion::Transparent),
        },
        Call::NamespaceDel { name: label("prod"), cascade: true },
        Call::NamespaceList,
        Call::NamespaceShow { name: label("prod") },
        Call::EdgeAdd {
            namespace: label("prod"),
            name: label("aws-hk"),
            cidrs: nets.clone(),
            endpoints: endpoints.clone(),
            description: "Hong Kong".into(),
        },
        Call::EdgeSet {
            namespace: label("prod"),
            name: label("aws-hk"),
            cidrs: Some(nets.clone()),
            endpoints: Some(endpoints),
            description: None,
            no_link_to: Some(vec![label("idc")]),
        },
        Call::EdgeDel { namespace: label("prod"), name: label("aws-hk") },
        Call::EdgeList { namespace: Some(label("prod")) },
        Call::EdgeShow { namespace: label("prod"), name: label("aws-hk") },
    ]
}

fn route_and_credential_calls() -> Vec<Call> {
    let pods = || label("pods");
    let csr = vec![0x30, 3, 2, 1, 0];
    let serial = Serial::from_bytes([9; 16]);
    vec![
        Call::RouteAdd {
            namespace: label("prod"),
            name: pods(),
            prefix: "172.30.0.0/16".parse().unwrap(),
            edge: label("aws-hk"),
        },
        Call::RouteDel { namespace: label("prod"), name: pods() },
        Call::RouteList { namespace: None },
        Call::RouteShow { namespace: label("prod"), name: pods() },
        Call::TokenCreate {
            namespace: label("prod"),
            edge: label("aws-hk"),
            ttl_secs: 3600,
            rejoin: false,
        },
        Call::TokenList { namespace: None },
        Call::TokenRevoke { id: "01".repeat(16) },
        Call::CertEnroll { namespace: label("prod"), edge: label("aws-hk"), csr: csr.clone() },
        Call::CertList { namespace: None },
        Call::CertShow { serial },
        Call::CertRevoke { serial, reason: "stolen".into() },
        Call::CertRenew { namespace: label("prod"), edge: label("aws-hk") },
        Call::AdminAdd { name: label("alice"), csr, read_only: true },
        Call::AdminDel { name: label("alice") },
    ]
}

fn mesh_calls() -> Vec<Call> {
    vec![
        Call::AdminList,
        Call::IssuerRevoke { fingerprint: Fingerprint::from_bytes([0xab; 32]) },
        Call::TrustShow,
        Call::Wait { namespace: label("prod"), version: version(), timeout_secs: 30 },
        Call::Backup,
        Call::Audit(AuditQuery {
            since: Some(1_763_000_000_000),
            until: None,
            who: Some("admin/alice".into()),
            namespace: Some(label("prod")),
            call: Some("edge-add".into()),
            limit: 100,
            follow: true,
        }),
        Call::ControllerList,
        Call::ControllerShow { name: label("c1") },
        Call::ControllerDel { name: label("c1"), revoke_issuer: true },
        Call::Sessions { namespace: Some(label("prod")), edge: None, brief: true },
        Call::Behind { namespace: label("prod"), version: version(), timeout_secs: 30 },
        Call::CaStatus,
        Call::CaHolders { fingerprint: Fingerprint::from_bytes([0xab; 32]) },
        Call::RootAdd { certificate: vec![0x30, 3, 2, 1, 0] },
        Call::RootDrop { fingerprint: Fingerprint::from_bytes([0xab; 32]), force: true },
        Call::StoreAccept,
        Call::Claim {
            namespace: label("prod"),
            edge: label("hk"),
            boot: [0xcd; 16],
            address: "203.0.113.10:4500".parse().unwrap(),
        },
    ]
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

/// In the order of their variants; several of one where the rows have variants of their own.
pub(crate) fn replies() -> Vec<(&'static str, Reply)> {
    let changed = Changed { version: version(), warnings: vec!["10.0.0.0/8 contains ...".into()] };
    let made = TokenMade { token: "cfj1.AA".into(), id: "01".repeat(16), expires: 1_763_003_600 };
    let progress = Progress { acked: 2, total: 3, waiting: vec!["idc".parse().unwrap()] };
    let admin = AdminEnrolled {
        mesh: "corp".parse().unwrap(),
        name: "alice".parse().unwrap(),
        read_only: true,
        chain: vec![vec![0x30, 1]],
        trust: trust(),
        controllers: vec!["203.0.113.7:58422".parse().unwrap()],
    };
    let admin_row =
        AdminRow { name: "alice".parse().unwrap(), read_only: false, not_after: 1_765_000_000 };
    vec![
        ("changed", Reply::Changed(changed)),
        ("namespaces", Reply::Namespaces(vec![namespace_row()])),
        ("edges", Reply::Edges(edge_rows())),
        ("routes", Reply::Routes(vec![route_row()])),
        ("tokens", Reply::Tokens(vec![token_row()])),
        ("certs", Reply::Certs(cert_rows())),
        ("admins", Reply::Admins(vec![admin_row])),
        ("status", Reply::Status(status())),
        ("token-made", Reply::TokenMade(made)),
        ("enrolled", Reply::Enrolled(enrolled())),
        ("admin-enrolled", Reply::AdminEnrolled(admin)),
        ("trust", Reply::Trust(trust())),
        ("progress", Reply::Progress(progress)),
        ("chunk", Reply::Chunk(vec![1, 2, 3])),
        ("version", Reply::Version { software: "0.1.0".into(), protocol: 1 }),
        ("audit", Reply::Audit(vec![audit_row()])),
        ("controllers", Reply::Controllers(registration_rows())),
        ("sessions", Reply::Sessions(session_rows())),
        (
            "behind",
            Reply::Behind(Behind { total: 3, behind: 1, names: vec!["idc".parse().unwrap()] }),
        ),
        ("unheard", Reply::Unheard(vec!["c2".parse().unwrap()])),
        ("ca", Reply::Ca(ca_status())),
        ("holders", Reply::Holders(vec![holder()])),
    ]
}
