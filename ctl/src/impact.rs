//! What would break: the sentences that a person reads before saying yes. Pure.

use cframe_pki::{
    Fingerprint,
    identity::{Label, Role, SpiffeId},
};
use cframe_protocol::v1::{EdgeRow, HolderRow, NamespaceRow, RouteRow};
use ipnet::IpNet;

use crate::console::count;

/// `3 edges lose 10.2.0.0/16, 10.3.0.0/16 (behind aws-hk)`, `1 edge loses …`; nothing if there is
/// nobody or nothing to lose.
fn lose(others: usize, prefixes: &[IpNet], behind: &Label) -> Option<String> {
    if others == 0 || prefixes.is_empty() {
        return None;
    }
    let verb = if others == 1 { "loses" } else { "lose" };
    let list: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    Some(format!("{} {verb} {} (behind {behind})", count(others, "edge"), list.join(", ")))
}

fn others(edges: &[EdgeRow], name: &Label) -> usize {
    edges.iter().filter(|edge| edge.name != *name).count()
}

/// What lies behind an edge, its routes too.
fn behind(edges: &[EdgeRow], routes: &[RouteRow], name: &Label) -> Vec<IpNet> {
    let own = edges.iter().filter(|edge| edge.name == *name).flat_map(|edge| &edge.cidrs);
    let routed = routes.iter().filter(|route| route.edge == *name).map(|route| &route.prefix);
    own.chain(routed).copied().collect()
}

/// Of removing an edge; `edges` and `routes` are those of its namespace.
pub fn edge_del(
    edges: &[EdgeRow],
    routes: &[RouteRow],
    namespace: &Label,
    name: &Label,
) -> Vec<String> {
    let prefixes = behind(edges, routes, name);
    let fate = "its routes and tokens are removed, and its certificates revoked for good";
    lose(others(edges, name), &prefixes, name)
        .into_iter()
        .chain([format!("edge {namespace}/{name} is cut off: {fate}")])
        .collect()
}

/// Of setting an edge's own networks to `cidrs`; empty when nothing is lost.
pub fn edge_set(edges: &[EdgeRow], name: &Label, cidrs: &[IpNet]) -> Vec<String> {
    let own = edges.iter().filter(|edge| edge.name == *name).flat_map(|edge| &edge.cidrs);
    let lost: Vec<IpNet> = own.flat_map(|net| subtract(*net, cidrs)).collect();
    lose(others(edges, name), &lost, name).into_iter().collect()
}

/// Of removing a route.
pub fn route_del(edges: &[EdgeRow], route: &RouteRow) -> Vec<String> {
    lose(others(edges, &route.edge), &[route.prefix], &route.edge).into_iter().collect()
}

/// Of removing a namespace with all that is in it.
pub fn namespace_del(
    namespace: &NamespaceRow,
    edges: &[EdgeRow],
    routes: &[RouteRow],
) -> Vec<String> {
    let prefixes = edges.iter().map(|edge| edge.cidrs.len()).sum::<usize>() + routes.len();
    let networks = count(prefixes, "network");
    let names: Vec<&str> = edges.iter().map(|edge| edge.name.as_str()).collect();
    let name = &namespace.name;
    if edges.is_empty() {
        return vec![format!("namespace {name} has no edges; its tokens are removed with it")];
    }
    let edges = count(edges.len(), "edge");
    vec![
        format!("namespace {name} is removed with {edges} ({}) and {networks}", names.join(", ")),
        "their links are cut, and their certificates revoked for good".to_owned(),
    ]
}

/// Of revoking certificates of one identity; `edges` and `routes` are those of its namespace, if it
/// has one.
pub fn revoke(id: &SpiffeId, certs: usize, edges: &[EdgeRow], routes: &[RouteRow]) -> Vec<String> {
    let certs = count(certs, "certificate");
    match &id.role {
        Role::Edge { namespace, name } => {
            let prefixes = behind(edges, routes, name);
            lose(others(edges, name), &prefixes, name)
                .into_iter()
                .chain([format!(
                    "{certs} of edge {namespace}/{name} revoked for good; to come back it joins \
                     with a token of `cfctl token create --rejoin`"
                )])
                .collect()
        }
        Role::Admin { name } => vec![format!("{certs} of admin {name} revoked for good")],
        Role::Controller { name } => {
            vec![format!("{certs} of controller {name} revoked: edges and admins leave it")]
        }
    }
}

/// What is left of a network without those to keep, in as few pieces as can be.
fn subtract(net: IpNet, keep: &[IpNet]) -> Vec<IpNet> {
    if keep.iter().any(|kept| kept.contains(&net)) {
        return Vec::new();
    }
    if !keep.iter().any(|kept| net.contains(kept)) {
        return vec![net];
    }
    // Something smaller is kept inside, so the network has halves.
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| subtract(half, keep)).collect()
}

/// What the end of an issuing CA does to those whose newest certificate is by it.
pub fn revoke_issuer(issuer: Fingerprint, holders: &[HolderRow]) -> Vec<String> {
    const NAMED: usize = 10;
    let mut impact =
        vec![format!("no certificate that issuing CA {issuer} has signed works any more")];
    for (kind, loss) in [
        ("edge", "cut off at once, to join again with `cfctl token create --rejoin`"),
        ("controller", "refused by everybody at once"),
        ("admin", "in need of a new certificate: `cframe-controller admin` on a controller's host"),
    ] {
        let names: Vec<String> = holders
            .iter()
            .filter(|holder| holder.id.role.kind() == kind)
            .map(|holder| match holder.id.role.namespace() {
                Some(namespace) => format!("{namespace}/{}", holder.id.role.name()),
                None => holder.id.role.name().to_string(),
            })
            .collect();
        if !names.is_empty() {
            let more = if names.len() > NAMED { ", …" } else { "" };
            let few = &names[..NAMED.min(names.len())];
            impact.push(format!("{} {loss}: {}{more}", count(names.len(), kind), few.join(", ")));
        }
    }
    if holders.is_empty() {
        impact.push("nobody's newest certificate is by it".to_owned());
    }
    impact
}

#[cfg(test)]
mod tests {
    use cframe_protocol::v1::EdgeLiveness;
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    fn edge(name: &str, cidrs: &[&str]) -> EdgeRow {
        EdgeRow {
            namespace: label("prod"),
            name: label(name),
            cidrs: cidrs.iter().map(|cidr| net(cidr)).collect(),
            endpoints: Vec::new(),
            description: String::new(),
            state: EdgeLiveness::NeverSeen,
            software: String::new(),
            address: None,
            applied: None,
            cert_expires: None,
            links: Vec::new(),
        }
    }

    fn edges() -> Vec<EdgeRow> {
        vec![
            edge("aws-hk", &["10.2.0.0/16"]),
            edge("aliyun-sz", &["10.3.0.0/16"]),
            edge("idc", &["10.4.0.0/16"]),
            edge("lab", &[]),
        ]
    }

    fn pods() -> RouteRow {
        RouteRow {
            namespace: label("prod"),
            name: label("pods-hk"),
            prefix: net("10.244.0.0/16"),
            edge: label("aws-hk"),
        }
    }

    #[test]
    fn removing_an_edge_names_who_loses_what() {
        let impact = edge_del(&edges(), &[pods()], &label("prod"), &label("aws-hk"));
        assert_eq!(impact[0], "3 edges lose 10.2.0.0/16, 10.244.0.0/16 (behind aws-hk)");
        assert!(impact[1].starts_with("edge prod/aws-hk is cut off"));
        let lonely = edge_del(&edges()[..1], &[], &label("prod"), &label("aws-hk"));
        assert_eq!(lonely.len(), 1, "{lonely:?}");
    }

    #[test]
    fn only_networks_that_go_away_are_worth_a_question() {
        let name = label("aws-hk");
        assert_eq!(edge_set(&edges(), &name, &[net("10.2.0.0/16"), net("10.9.0.0/16")]), [""; 0]);
        assert_eq!(edge_set(&edges(), &name, &[net("10.2.0.0/15")]), [""; 0]);
        assert_eq!(
            edge_set(&edges()[..2], &name, &[net("10.2.0.0/17")]),
            ["1 edge loses 10.2.128.0/17 (behind aws-hk)"]
        );
        assert_eq!(edge_set(&edges(), &name, &[]), ["3 edges lose 10.2.0.0/16 (behind aws-hk)"]);
    }

    #[test]
    fn removing_a_route_or_namespace_says_how_much_goes() {
        assert_eq!(route_del(&edges(), &pods()), ["3 edges lose 10.244.0.0/16 (behind aws-hk)"]);
        let row = NamespaceRow {
            name: label("prod"),
            description: String::new(),
            settings: Default::default(),
            edges: 4,
            routes: 1,
            revision: 7,
        };
        let impact = namespace_del(&row, &edges(), &[pods()]);
        let names = "aws-hk, aliyun-sz, idc, lab";
        assert_eq!(
            impact[0],
            format!("namespace prod is removed with 4 edges ({names}) and 4 networks")
        );
    }

    #[test]
    fn revoking_tells_edges_from_people() {
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let edge = revoke(&id("spiffe://corp/ns/prod/edge/idc"), 2, &edges(), &[]);
        assert_eq!(edge[0], "3 edges lose 10.4.0.0/16 (behind idc)");
        assert!(edge[1].starts_with("2 certificates of edge prod/idc"));
        let admin = revoke(&id("spiffe://corp/admin/eve"), 1, &[], &[]);
        assert_eq!(admin, ["1 certificate of admin eve revoked for good"]);
    }

    #[test]
    fn revoking_an_issuing_ca_names_whom_it_cuts_off() {
        let holder = |id: &str| HolderRow {
            id: id.parse().unwrap(),
            serial: cframe_pki::Serial::from_bytes([1; 16]),
            not_after: 0,
            online: true,
        };
        let issuer = Fingerprint::from_bytes([7; 32]);
        let holders = ["spiffe://corp/ns/prod/edge/a", "spiffe://corp/ns/prod/edge/b"].map(holder);
        let impact = revoke_issuer(issuer, &holders);
        assert_eq!(impact.len(), 2);
        assert!(
            impact[1].starts_with("2 edges each is cut off")
                || impact[1].contains("prod/a, prod/b")
        );
        assert!(revoke_issuer(issuer, &[])[1].contains("nobody"));
    }

    proptest! {
        #[test]
        fn what_is_lost_is_what_was_there_and_is_not_kept(
            keep in proptest::collection::vec((0u32..=255, 24u8..=32), 0..6),
            probe in 0u32..=255,
        ) {
            let address = |low: u32| std::net::Ipv4Addr::from(0x0a02_0000 | low);
            let keep: Vec<IpNet> = keep
                .into_iter()
                .map(|(low, length)| IpNet::new(address(low).into(), length).unwrap().trunc())
                .collect();
            let lost = subtract(net("10.2.0.0/24"), &keep);
            let host = std::net::IpAddr::from(address(probe));
            let kept = keep.iter().any(|net| net.contains(&host));
            prop_assert_eq!(lost.iter().any(|net| net.contains(&host)), !kept);
        }
    }
}
