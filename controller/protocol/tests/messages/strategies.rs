//! Any message.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use cframe_pki::{
    CertificateDer, Fingerprint, Serial,
    bundle::{DenyEntry, TrustBundle},
    identity::{Label, MeshName, SpiffeId},
};
use cframe_protocol::v1::*;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    result,
};

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
    vec(endpoint(), 0..4).prop_map(|endpoints| EdgeState { endpoints })
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
    ]
    .prop_map(|reason| Goodbye { reason })
}

pub(crate) fn call() -> impl Strategy<Value = Call> {
    let l = label;
    let text = || ".{0,60}";
    let nets = || vec(net(), 0..6);
    let endpoints = || vec(endpoint(), 0..4);
    prop_oneof![
        prop_oneof![
            Just(Call::Version),
            Just(Call::Status),
            Just(Call::NamespaceList),
            Just(Call::AdminList),
            Just(Call::TrustShow),
            Just(Call::Backup),
            audit_query().prop_map(Call::Audit),
            Just(Call::ControllerList),
            fingerprint().prop_map(|fingerprint| Call::IssuerRevoke { fingerprint }),
            (l(), version(), any::<u32>()).prop_map(|(namespace, version, timeout_secs)| {
                Call::Wait { namespace, version, timeout_secs }
            }),
        ],
        prop_oneof![
            Just(Call::CaStatus),
            fingerprint().prop_map(|fingerprint| Call::CaHolders { fingerprint }),
            bytes(600).prop_map(|certificate| Call::RootAdd { certificate }),
            (fingerprint(), any::<bool>())
                .prop_map(|(fingerprint, force)| Call::RootDrop { fingerprint, force }),
        ],
        prop_oneof![
            (l(), settings(), text()).prop_map(|(name, settings, description)| {
                Call::NamespaceAdd { name, settings, description }
            }),
            (l(), option::of(any::<u16>()), option::of(congestion())).prop_map(
                |(name, tun_mtu, congestion)| Call::NamespaceSet { name, tun_mtu, congestion }
            ),
            (l(), any::<bool>()).prop_map(|(name, cascade)| Call::NamespaceDel { name, cascade }),
            l().prop_map(|name| Call::NamespaceShow { name }),
        ],
        prop_oneof![
            (l(), l(), nets(), endpoints(), text()).prop_map(
                |(namespace, name, cidrs, endpoints, description)| Call::EdgeAdd {
                    namespace,
                    name,
                    cidrs,
                    endpoints,
                    description,
                }
            ),
            (l(), l(), option::of(nets()), option::of(endpoints()), option::of(text())).prop_map(
                |(namespace, name, cidrs, endpoints, description)| Call::EdgeSet {
                    namespace,
                    name,
                    cidrs,
                    endpoints,
                    description,
                }
            ),
            (l(), l()).prop_map(|(namespace, name)| Call::EdgeDel { namespace, name }),
            option::of(l()).prop_map(|namespace| Call::EdgeList { namespace }),
            (l(), l()).prop_map(|(namespace, name)| Call::EdgeShow { namespace, name }),
            (l(), l(), net(), l()).prop_map(|(namespace, name, prefix, edge)| Call::RouteAdd {
                namespace,
                name,
                prefix,
                edge,
            }),
            (l(), l()).prop_map(|(namespace, name)| Call::RouteDel { namespace, name }),
            option::of(l()).prop_map(|namespace| Call::RouteList { namespace }),
            (l(), l()).prop_map(|(namespace, name)| Call::RouteShow { namespace, name }),
        ],
        prop_oneof![
            (l(), l(), any::<(u32, bool)>()).prop_map(|(namespace, edge, (ttl_secs, rejoin))| {
                Call::TokenCreate { namespace, edge, ttl_secs, rejoin }
            }),
            option::of(l()).prop_map(|namespace| Call::TokenList { namespace }),
            text().prop_map(|id| Call::TokenRevoke { id }),
            (l(), l(), bytes(600)).prop_map(|(namespace, edge, csr)| Call::CertEnroll {
                namespace,
                edge,
                csr
            }),
            option::of(l()).prop_map(|namespace| Call::CertList { namespace }),
            serial().prop_map(|serial| Call::CertShow { serial }),
            (serial(), text()).prop_map(|(serial, reason)| Call::CertRevoke { serial, reason }),
            (l(), l()).prop_map(|(namespace, edge)| Call::CertRenew { namespace, edge }),
            (l(), bytes(600), any::<bool>()).prop_map(|(name, csr, read_only)| Call::AdminAdd {
                name,
                csr,
                read_only
            }),
            l().prop_map(|name| Call::AdminDel { name }),
            l().prop_map(|name| Call::ControllerShow { name }),
            (l(), any::<bool>())
                .prop_map(|(name, revoke_issuer)| Call::ControllerDel { name, revoke_issuer }),
            (option::of(l()), option::of(l()), any::<bool>())
                .prop_map(|(namespace, edge, brief)| Call::Sessions { namespace, edge, brief }),
            (l(), version(), any::<u32>()).prop_map(|(namespace, version, timeout_secs)| {
                Call::Behind { namespace, version, timeout_secs }
            }),
        ],
    ]
}

fn audit_query() -> impl Strategy<Value = AuditQuery> {
    let times = (option::of(any::<u64>()), option::of(any::<u64>()));
    let texts = (option::of(".{0,60}"), option::of(label()), option::of(".{0,20}"));
    (times, texts, any::<(u32, bool)>()).prop_map(
        |((since, until), (who, namespace, call), (limit, follow))| AuditQuery {
            since,
            until,
            who,
            namespace,
            call,
            limit,
            follow,
        },
    )
}

fn audit_row() -> impl Strategy<Value = AuditRow> {
    ("[0-9]{13}-[a-z0-9]{1,20}-[0-9]{10}", ".{0,400}")
        .prop_map(|(id, record)| AuditRow { id, record })
}

pub(crate) fn edge_row() -> impl Strategy<Value = EdgeRow> {
    let state = prop_oneof![
        Just(EdgeLiveness::NeverSeen),
        any::<u64>().prop_map(|since| EdgeLiveness::Offline { since }),
        any::<u64>().prop_map(|since| EdgeLiveness::Online { since }),
        Just(EdgeLiveness::Unknown),
    ];
    (
        (label(), label(), vec(net(), 0..5), vec(endpoint(), 0..4), ".{0,40}", state),
        ("[0-9.]{0,9}", option::of(address()), option::of(version()), option::of(any::<u64>())),
        vec(link(), 0..6),
    )
        .prop_map(|((namespace, name, cidrs, endpoints, description, state), seen, links)| {
            let (software, address, applied, cert_expires) = seen;
            EdgeRow {
                namespace,
                name,
                cidrs,
                endpoints,
                description,
                state,
                software,
                address,
                applied,
                cert_expires,
                links,
            }
        })
}

/// Scope and flow label of IPv6 are not on the wire.
fn address() -> impl Strategy<Value = SocketAddr> {
    any::<SocketAddr>().prop_map(|address| SocketAddr::new(address.ip(), address.port()))
}

fn namespace_row() -> impl Strategy<Value = NamespaceRow> {
    (label(), ".{0,40}", settings(), any::<(u32, u32, u64)>()).prop_map(
        |(name, description, settings, (edges, routes, revision))| NamespaceRow {
            name,
            description,
            settings,
            edges,
            routes,
            revision,
        },
    )
}

fn route_row() -> impl Strategy<Value = RouteRow> {
    (label(), label(), net(), label()).prop_map(|(namespace, name, prefix, edge)| RouteRow {
        namespace,
        name,
        prefix,
        edge,
    })
}

fn token_row() -> impl Strategy<Value = TokenRow> {
    (label(), label(), "[0-9a-f]{32}", any::<(u64, u64, bool)>(), ".{0,20}").prop_map(
        |(namespace, edge, id, (created, expires, rejoin), created_by)| TokenRow {
            namespace,
            edge,
            id,
            created,
            expires,
            rejoin,
            created_by,
        },
    )
}

fn cert_row() -> impl Strategy<Value = CertRow> {
    let state = prop_oneof![
        Just(CertState::Valid),
        Just(CertState::Expired),
        (any::<u64>(), ".{0,40}").prop_map(|(at, reason)| CertState::Revoked { at, reason }),
    ];
    (serial(), spiffe(), fingerprint(), any::<(u64, u64)>(), state).prop_map(
        |(serial, id, spki, (not_before, not_after), state)| CertRow {
            serial,
            id,
            spki,
            not_before,
            not_after,
            state,
        },
    )
}

fn admin_row() -> impl Strategy<Value = AdminRow> {
    (label(), any::<(bool, u64)>()).prop_map(|(name, (read_only, not_after))| AdminRow {
        name,
        read_only,
        not_after,
    })
}

fn registration_row() -> impl Strategy<Value = RegistrationRow> {
    let running =
        ("[0-9.]{0,9}", any::<u64>()).prop_map(|(software, since)| Running { software, since });
    ((label(), vec(endpoint(), 0..4), fingerprint()), any::<(u64, u64)>(), option::of(running))
        .prop_map(|((name, addresses, issuer), (added, issuer_expires), running)| RegistrationRow {
            name,
            addresses,
            added,
            issuer,
            issuer_expires,
            running,
        })
}

fn session_row() -> impl Strategy<Value = SessionRow> {
    (
        (label(), label(), any::<(bool, u64)>()),
        ("[0-9.]{0,9}", address(), option::of(version())),
        vec(link(), 0..6),
    )
        .prop_map(
            |((namespace, edge, (online, since)), (software, address, applied), links)| {
                SessionRow { namespace, edge, online, since, software, address, applied, links }
            },
        )
}

fn namespace_status() -> impl Strategy<Value = NamespaceStatus> {
    (label(), any::<[u32; 5]>(), any::<u64>()).prop_map(
        |(name, [edges, online, in_sync, links_up, links_expected], revision)| NamespaceStatus {
            name,
            edges,
            online,
            in_sync,
            links_up,
            links_expected,
            revision,
        },
    )
}

pub(crate) fn status() -> impl Strategy<Value = MeshStatus> {
    let controller = (label(), endpoint(), "[0-9.]{0,9}", any::<u64>(), ".{0,20}").prop_map(
        |(name, address, software, uptime_secs, store)| ControllerRow {
            name,
            address,
            software,
            uptime_secs,
            store,
        },
    );
    (
        (mesh(), vec(controller, 0..3), any::<(u64, u64)>()),
        vec(namespace_status(), 0..5),
        vec(".{0,60}", 0..4),
    )
        .prop_map(|((mesh, controllers, (epoch, mesh_revision)), namespaces, problems)| {
            MeshStatus { mesh, controllers, epoch, mesh_revision, namespaces, problems }
        })
}

fn cert_counts() -> impl Strategy<Value = CertCounts> {
    any::<(u32, u32, u32, u32)>().prop_map(|(edges, controllers, admins, valid)| CertCounts {
        edges,
        controllers,
        admins,
        valid,
    })
}

fn root_row() -> impl Strategy<Value = RootRow> {
    let lacking = (label(), label(), any::<bool>()).prop_map(|(namespace, edge, online)| Lacking {
        namespace,
        edge,
        online,
    });
    (
        (fingerprint(), ".{0,40}", bytes(600), any::<(u64, bool)>()),
        (any::<(u64, u32, u32)>(), vec(lacking, 0..=CaStatus::MAX_LACKING), cert_counts()),
    )
        .prop_map(|((fingerprint, subject, certificate, (not_after, signs)), rest)| {
            let ((revision, have, edges), lacking, certs) = rest;
            RootRow {
                fingerprint,
                subject,
                not_after,
                certificate,
                signs,
                revision,
                have,
                edges,
                lacking,
                certs,
            }
        })
}

fn issuer_row() -> impl Strategy<Value = IssuerRow> {
    (fingerprint(), label(), fingerprint(), any::<(u64, bool, bool)>(), cert_counts()).prop_map(
        |(fingerprint, controller, root, (not_after, signs, revoked), certs)| IssuerRow {
            fingerprint,
            controller,
            root,
            not_after,
            signs,
            revoked,
            certs,
        },
    )
}

fn ca_status(rows: usize) -> impl Strategy<Value = CaStatus> {
    (vec(root_row(), 0..=CaStatus::MAX_ROOTS), vec(issuer_row(), 0..=rows), ".{0,80}")
        .prop_map(|(roots, issuers, next)| CaStatus { roots, issuers, next })
}

fn holder_row() -> impl Strategy<Value = HolderRow> {
    (spiffe(), serial(), any::<(u64, bool)>())
        .prop_map(|(id, serial, (not_after, online))| HolderRow { id, serial, not_after, online })
}

/// Any reply, of up to so many rows.
pub(crate) fn reply(rows: usize) -> impl Strategy<Value = Reply> {
    let changed = (version(), vec(".{0,60}", 0..4))
        .prop_map(|(version, warnings)| Changed { version, warnings });
    let made = ("[A-Za-z0-9.]{0,99}", "[0-9a-f]{32}", any::<u64>())
        .prop_map(|(token, id, expires)| TokenMade { token, id, expires });
    let admin =
        (mesh(), label(), any::<bool>(), vec(bytes(600), 0..3), trust(), vec(endpoint(), 0..4))
            .prop_map(|(mesh, name, read_only, chain, trust, controllers)| AdminEnrolled {
                mesh,
                name,
                read_only,
                chain,
                trust,
                controllers,
            });
    let progress = (any::<(u32, u32)>(), vec(label(), 0..5))
        .prop_map(|((acked, total), waiting)| Progress { acked, total, waiting });
    prop_oneof![
        changed.prop_map(Reply::Changed),
        vec(namespace_row(), 0..=rows).prop_map(Reply::Namespaces),
        vec(edge_row(), 0..=rows).prop_map(Reply::Edges),
        vec(route_row(), 0..=rows).prop_map(Reply::Routes),
        vec(token_row(), 0..=rows).prop_map(Reply::Tokens),
        vec(cert_row(), 0..=rows).prop_map(Reply::Certs),
        vec(admin_row(), 0..=rows).prop_map(Reply::Admins),
        status().prop_map(Reply::Status),
        made.prop_map(Reply::TokenMade),
        enrolled().prop_map(Reply::Enrolled),
        admin.prop_map(Reply::AdminEnrolled),
        trust().prop_map(Reply::Trust),
        progress.prop_map(Reply::Progress),
        vec(registration_row(), 0..=rows).prop_map(Reply::Controllers),
        vec(session_row(), 0..=rows).prop_map(Reply::Sessions),
        vec(label(), 0..5).prop_map(Reply::Unheard),
        (any::<(u32, u32)>(), vec(label(), 0..5)).prop_map(|((total, behind), names)| {
            Reply::Behind(Behind { total, behind, names })
        }),
        bytes(4096).prop_map(Reply::Chunk),
        vec(audit_row(), 0..=rows).prop_map(Reply::Audit),
        ("[0-9.]{0,9}", any::<u16>())
            .prop_map(|(software, protocol)| Reply::Version { software, protocol }),
        ca_status(rows).prop_map(Reply::Ca),
        vec(holder_row(), 0..=rows).prop_map(Reply::Holders),
    ]
}
