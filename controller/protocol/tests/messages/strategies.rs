//! Strategies for all messages.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use cframe_pki::{
    CertificateDer, Fingerprint, Serial,
    bundle::{DenyEntry, TrustBundle},
    identity::{Label, MeshName, SpiffeId},
};
use cframe_protocol::{problem::Severity, v1::*};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    result,
};

mod call;
mod reply;

pub(crate) use call::call;
pub(crate) use reply::*;

pub(crate) fn label() -> impl Strategy<Value = Label> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
}

fn mesh() -> impl Strategy<Value = MeshName> {
    "[a-z]{1,20}(\\.[a-z0-9]{1,20}){0,3}".prop_map(|text| text.parse().unwrap())
}

pub(crate) fn net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<Ipv4Addr>(), 0..=32u8)
            .prop_map(|(ip, len)| IpNet::V4(Ipv4Net::new(ip, len).unwrap().trunc())),
        (any::<Ipv6Addr>(), 0..=128u8)
            .prop_map(|(ip, len)| IpNet::V6(Ipv6Net::new(ip, len).unwrap().trunc())),
    ]
}

pub(crate) fn endpoint() -> impl Strategy<Value = Endpoint> {
    let name = ("[a-z0-9-]{0,5}[a-z]{1,5}(\\.[a-z0-9]{1,9}){0,2}\\.[a-z]{2,6}", 1..=u16::MAX)
        .prop_map(|(host, port)| format!("{host}:{port}"));
    prop_oneof![any::<SocketAddr>().prop_map(|address| address.to_string()), name]
        .prop_filter_map("an endpoint", |text| text.parse().ok())
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    any::<(u64, u64, u64)>().prop_map(|(epoch, mesh, namespace)| Version { epoch, mesh, namespace })
}

pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    (1280..=1500u16, congestion())
        .prop_map(|(tun_mtu, congestion)| Settings { tun_mtu, congestion })
}

fn congestion() -> impl Strategy<Value = Congestion> {
    prop_oneof![Just(Congestion::Transparent), Just(Congestion::Bbr)]
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=max)
}

fn fingerprint() -> impl Strategy<Value = Fingerprint> {
    any::<[u8; 32]>().prop_map(Fingerprint::from_bytes)
}

fn serial() -> impl Strategy<Value = Serial> {
    any::<[u8; 16]>().prop_map(Serial::from_bytes)
}

pub(crate) fn trust() -> impl Strategy<Value = TrustBundle> {
    let roots = vec(bytes(600).prop_map(CertificateDer::from), 0..4);
    (roots, btree_set(fingerprint(), 0..5))
        .prop_map(|(roots, revoked_issuers)| TrustBundle { roots, revoked_issuers })
}

fn spiffe() -> impl Strategy<Value = SpiffeId> {
    prop_oneof![
        (mesh(), label(), label()).prop_map(|(mesh, ns, name)| SpiffeId::edge(mesh, ns, name)),
        (mesh(), label()).prop_map(|(mesh, name)| SpiffeId::controller(mesh, name)),
        (mesh(), label()).prop_map(|(mesh, name)| SpiffeId::admin(mesh, name)),
    ]
}

fn deny() -> impl Strategy<Value = DenyEntry> {
    (spiffe(), serial(), fingerprint(), any::<u64>())
        .prop_map(|(id, serial, spki, expires)| DenyEntry { id, serial, spki, expires })
}

fn edge_state() -> impl Strategy<Value = EdgeState> {
    (vec(endpoint(), 0..4), any::<bool>())
        .prop_map(|(endpoints, joined)| EdgeState { endpoints, joined })
}

pub(crate) fn desired() -> impl Strategy<Value = Desired> {
    // Few names and prefixes, so that two states have some in common.
    let name = || (0..20u8).prop_map(|n| format!("e{n}").parse::<Label>().unwrap());
    let net = (0..30u8).prop_map(|n| format!("10.{n}.0.0/16").parse::<IpNet>().unwrap());
    (
        version(),
        settings(),
        trust(),
        btree_set(deny(), 0..6),
        btree_set(endpoint(), 0..4),
        btree_map(name(), edge_state(), 0..15),
        btree_map(net, name(), 0..25),
    )
        .prop_map(|(version, settings, trust, denied, controllers, edges, prefixes)| Desired {
            version,
            settings,
            trust,
            denied,
            controllers,
            edges,
            prefixes,
        })
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        settings().prop_map(Change::Settings),
        trust().prop_map(Change::Trust),
        btree_set(endpoint(), 0..6).prop_map(Change::Controllers),
        deny().prop_map(Change::Denied),
        deny().prop_map(Change::NotDenied),
        (label(), edge_state()).prop_map(|(name, state)| Change::Edge { name, state }),
        label().prop_map(|name| Change::EdgeGone { name }),
        (net(), label()).prop_map(|(net, owner)| Change::Prefix { net, owner }),
        net().prop_map(|net| Change::PrefixGone { net }),
    ]
}

pub(crate) fn update() -> impl Strategy<Value = Update> {
    (option::of(version()), version(), vec(change(), 0..12), any::<bool>())
        .prop_map(|(from, to, changes, last)| Update { from, to, changes, last })
}

pub(crate) fn hello() -> impl Strategy<Value = EdgeHello> {
    (option::of(version()), ".{0,40}", any::<[u8; 16]>())
        .prop_map(|(have, software, boot)| EdgeHello { have, software, boot })
}

pub(crate) fn link() -> impl Strategy<Value = LinkReport> {
    (label(), any::<(bool, u32, u16, u64)>()).prop_map(
        |(peer, (up, rtt_us, path_mtu, since_unix))| LinkReport {
            peer,
            up,
            rtt_us,
            path_mtu,
            since_unix,
        },
    )
}

pub(crate) fn report() -> impl Strategy<Value = Report> {
    (vec(link(), 0..40), any::<u64>(), option::of(version()))
        .prop_map(|(links, cert_not_after, applied)| Report { links, cert_not_after, applied })
}

fn problem() -> impl Strategy<Value = Problem> {
    let severity = prop_oneof![Just(Severity::Warning), Just(Severity::Error)];
    let texts = (".{0,40}", ".{0,200}", option::of(".{0,200}"));
    (label(), severity, texts, any::<u64>()).prop_map(
        |(code, severity, (about, text, fix), since_unix)| Problem {
            code,
            severity,
            about,
            text,
            fix,
            since_unix,
        },
    )
}

pub(crate) fn problems() -> impl Strategy<Value = Problems> {
    (vec(problem(), 0..4), any::<u32>()).prop_map(|(problems, more)| Problems { problems, more })
}

pub(crate) fn enrolled() -> impl Strategy<Value = Enrolled> {
    (
        (mesh(), label(), label()),
        vec(bytes(600), 0..3),
        trust(),
        vec(endpoint(), 0..5),
        settings(),
        any::<u16>(),
        vec(net(), 0..8),
    )
        .prop_map(
            |(names, chain, trust, controllers, settings, listen_port, site_prefixes)| {
                let (mesh, namespace, edge) = names;
                Enrolled {
                    mesh,
                    namespace,
                    edge,
                    chain,
                    trust,
                    controllers,
                    settings,
                    listen_port,
                    site_prefixes,
                }
            },
        )
}

pub(crate) fn call_error() -> impl Strategy<Value = CallError> {
    let code = prop_oneof![
        Just(ErrorCode::Invalid),
        Just(ErrorCode::NotFound),
        Just(ErrorCode::Conflict),
        Just(ErrorCode::NotAllowed),
        Just(ErrorCode::Unavailable),
        Just(ErrorCode::StoreFull),
        Just(ErrorCode::Internal),
    ];
    (code, ".{0,80}", option::of(".{0,40}")).prop_map(|(code, message, hint)| CallError {
        code,
        message,
        hint,
    })
}

pub(crate) fn enroll_result() -> impl Strategy<Value = Result<Enrolled, CallError>> {
    result::maybe_ok(enrolled(), call_error())
}

pub(crate) fn enroll_request() -> impl Strategy<Value = EnrollRequest> {
    (any::<[u8; 16]>(), vec(any::<u8>(), 16..=32), bytes(600))
        .prop_map(|(token_id, secret, csr)| EnrollRequest { token_id, secret, csr })
}

pub(crate) fn goodbye() -> impl Strategy<Value = Goodbye> {
    prop_oneof![
        Just(GoodbyeReason::Shutdown),
        Just(GoodbyeReason::Revoked),
        Just(GoodbyeReason::Removed),
        Just(GoodbyeReason::Replaced),
        Just(GoodbyeReason::InUse),
    ]
    .prop_map(|reason| Goodbye { reason })
}
