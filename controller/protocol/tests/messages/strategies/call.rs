//! Any call.

use super::*;

pub(crate) fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        mesh_call(),
        ca_call(),
        namespace_call(),
        edge_or_route_call(),
        credential_or_controller_call(),
    ]
}

fn mesh_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        Just(Call::Version),
        Just(Call::Status),
        Just(Call::NamespaceList),
        Just(Call::AdminList),
        Just(Call::TrustShow),
        Just(Call::Backup),
        Just(Call::StoreAccept),
        audit_query().prop_map(Call::Audit),
        Just(Call::ControllerList),
        fingerprint().prop_map(|fingerprint| Call::IssuerRevoke { fingerprint }),
        (label(), version(), any::<u32>()).prop_map(|(namespace, version, timeout_secs)| {
            Call::Wait { namespace, version, timeout_secs }
        }),
    ]
}

fn ca_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        Just(Call::CaStatus),
        fingerprint().prop_map(|fingerprint| Call::CaHolders { fingerprint }),
        bytes(600).prop_map(|certificate| Call::RootAdd { certificate }),
        (fingerprint(), any::<bool>())
            .prop_map(|(fingerprint, force)| Call::RootDrop { fingerprint, force }),
    ]
}

fn namespace_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        (label(), settings(), text()).prop_map(|(name, settings, description)| {
            Call::NamespaceAdd { name, settings, description }
        }),
        (label(), option::of(any::<u16>()), option::of(congestion())).prop_map(
            |(name, tun_mtu, congestion)| Call::NamespaceSet { name, tun_mtu, congestion }
        ),
        (label(), any::<bool>()).prop_map(|(name, cascade)| Call::NamespaceDel { name, cascade }),
        label().prop_map(|name| Call::NamespaceShow { name }),
    ]
}

fn edge_or_route_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        (label(), label(), nets(), endpoints(), text()).prop_map(
            |(namespace, name, cidrs, endpoints, description)| Call::EdgeAdd {
                namespace,
                name,
                cidrs,
                endpoints,
                description,
            }
        ),
        (
            (label(), label()),
            option::of(nets()),
            option::of(endpoints()),
            option::of(text()),
            option::of(vec(label(), 0..4))
        )
            .prop_map(|((namespace, name), cidrs, endpoints, description, no_link_to)| {
                Call::EdgeSet { namespace, name, cidrs, endpoints, description, no_link_to }
            }),
        (label(), label()).prop_map(|(namespace, name)| Call::EdgeDel { namespace, name }),
        option::of(label()).prop_map(|namespace| Call::EdgeList { namespace }),
        (label(), label()).prop_map(|(namespace, name)| Call::EdgeShow { namespace, name }),
        (label(), label(), net(), label()).prop_map(|(namespace, name, prefix, edge)| {
            Call::RouteAdd { namespace, name, prefix, edge }
        }),
        (label(), label()).prop_map(|(namespace, name)| Call::RouteDel { namespace, name }),
        option::of(label()).prop_map(|namespace| Call::RouteList { namespace }),
        (label(), label()).prop_map(|(namespace, name)| Call::RouteShow { namespace, name }),
    ]
}

fn credential_or_controller_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        (label(), label(), any::<(u32, bool)>()).prop_map(
            |(namespace, edge, (ttl_secs, rejoin))| {
                Call::TokenCreate { namespace, edge, ttl_secs, rejoin }
            }
        ),
        option::of(label()).prop_map(|namespace| Call::TokenList { namespace }),
        text().prop_map(|id| Call::TokenRevoke { id }),
        (label(), label(), bytes(600)).prop_map(|(namespace, edge, csr)| Call::CertEnroll {
            namespace,
            edge,
            csr
        }),
        option::of(label()).prop_map(|namespace| Call::CertList { namespace }),
        serial().prop_map(|serial| Call::CertShow { serial }),
        (serial(), text()).prop_map(|(serial, reason)| Call::CertRevoke { serial, reason }),
        (label(), label()).prop_map(|(namespace, edge)| Call::CertRenew { namespace, edge }),
        (label(), bytes(600), any::<bool>()).prop_map(|(name, csr, read_only)| Call::AdminAdd {
            name,
            csr,
            read_only
        }),
        label().prop_map(|name| Call::AdminDel { name }),
        label().prop_map(|name| Call::ControllerShow { name }),
        (label(), any::<bool>())
            .prop_map(|(name, revoke_issuer)| Call::ControllerDel { name, revoke_issuer }),
        (option::of(label()), option::of(label()), any::<bool>())
            .prop_map(|(namespace, edge, brief)| Call::Sessions { namespace, edge, brief }),
        (label(), version(), any::<u32>()).prop_map(|(namespace, version, timeout_secs)| {
            Call::Behind { namespace, version, timeout_secs }
        }),
    ]
}

fn text() -> impl Strategy<Value = String> {
    ".{0,60}"
}

fn nets() -> impl Strategy<Value = Vec<IpNet>> {
    vec(net(), 0..6)
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    vec(endpoint(), 0..4)
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
