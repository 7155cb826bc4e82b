//! Any reply, and the rows in it.

use super::*;

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
        any::<u64>().prop_map(|since| EdgeLiveness::Revoked { since }),
    ];
    (
        (label(), label(), vec(net(), 0..5), vec(endpoint(), 0..4), ".{0,40}", state),
        ("[0-9.]{0,9}", option::of(address()), option::of(version()), option::of(any::<u64>())),
        (vec(link(), 0..6), vec(label(), 0..3), problems()),
    )
        .prop_map(|((namespace, name, cidrs, endpoints, description, state), seen, lists)| {
            let (links, no_link_to, problems) = lists;
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
                no_link_to,
                problems,
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
        (vec(link(), 0..6), problems(), session_detail()),
    )
        .prop_map(
            |(
                (namespace, edge, (online, since)),
                (software, address, applied),
                (links, problems, detail),
            )| {
                SessionRow {
                    namespace,
                    edge,
                    online,
                    since,
                    software,
                    address,
                    applied,
                    links,
                    problems,
                    detail,
                }
            },
        )
}

fn session_detail() -> impl Strategy<Value = SessionDetail> {
    let rival = (address(), any::<u64>()).prop_map(|(address, at)| Rival { address, at });
    (any::<[u8; 16]>(), any::<u64>(), option::of(any::<u64>()), option::of(rival)).prop_map(
        |(boot, applied_since, unacked_since, rival)| SessionDetail {
            boot,
            applied_since,
            unacked_since,
            rival,
        },
    )
}

fn problem_group() -> impl Strategy<Value = ProblemGroup> {
    let example =
        (".{0,20}", ".{0,20}", ".{0,60}", option::of(".{0,60}"), option::of(any::<u64>()))
            .prop_map(|(subject, about, text, fix, since_unix)| ProblemExample {
                subject,
                about,
                text,
                fix,
                since_unix,
            });
    let examples = vec(example, 0..=ProblemGroup::MAX_EXAMPLES);
    (label(), any::<bool>(), ".{0,40}", any::<u32>(), examples).prop_map(
        |(code, error, title, count, examples)| {
            let severity = if error { Severity::Error } else { Severity::Warning };
            ProblemGroup { code, severity, title, count, examples }
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
        vec(problem_group(), 0..4),
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
