//! Any call of an admin.

use super::*;

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
