//! What a change would break, in sentences, for the question before it.

use cframe_pki::identity::{Label, Role, SpiffeId};
use cframe_protocol::v1::{EdgeRow, NamespaceRow, RouteRow};
use ipnet::IpNet;

use crate::console::count;

/// `3 edges lose 10.2.0.0/16, 10.3.0.0/16 (behind aws-hk)`. `None` without other edges or prefixes.
fn lost_prefixes(others: usize, prefixes: &[IpNet], behind: &Label) -> Option<String> {
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

/// The networks behind an edge, with those of its routes.
fn prefixes_behind(edges: &[EdgeRow], routes: &[RouteRow], name: &Label) -> Vec<IpNet> {
    let own = edges.iter().filter(|edge| edge.name == *name).flat_map(|edge| &edge.cidrs);
    let routed = routes.iter().filter(|route| route.edge == *name).map(|route| &route.prefix);
    own.chain(routed).copied().collect()
}

/// `edges` and `routes` are those of the namespace.
pub fn edge_del(
    edges: &[EdgeRow],
    routes: &[RouteRow],
    namespace: &Label,
    name: &Label,
) -> Vec<String> {
    let prefixes = prefixes_behind(edges, routes, name);
    let own = format!(
        "edge {namespace}/{name} is cut off: its routes and tokens are removed, and its certificates \
         revoked for good"
    );
    lost_prefixes(others(edges, name), &prefixes, name).into_iter().chain([own]).collect()
}

/// For new networks of an edge; empty when none is lost.
pub fn edge_set(edges: &[EdgeRow], name: &Label, cidrs: &[IpNet]) -> Vec<String> {
    let own = edges.iter().filter(|edge| edge.name == *name).flat_map(|edge| &edge.cidrs);
    let lost: Vec<IpNet> = own.flat_map(|net| subtract(*net, cidrs)).collect();
    lost_prefixes(others(edges, name), &lost, name).into_iter().collect()
}

pub fn route_del(edges: &[EdgeRow], route: &RouteRow) -> Vec<String> {
    lost_prefixes(others(edges, &route.edge), &[route.prefix], &route.edge).into_iter().collect()
}

/// For a namespace that is removed with its edges and routes.
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

/// For certificates of one identity. `edges` and `routes` are those of its namespace, if it has one.
pub fn revoke(id: &SpiffeId, certs: usize, edges: &[EdgeRow], routes: &[RouteRow]) -> Vec<String> {
    let certs = count(certs, "certificate");
    match &id.role {
        Role::Edge { namespace, name } => {
            let prefixes = prefixes_behind(edges, routes, name);
            let own = format!(
                "{certs} of edge {namespace}/{name} revoked for good; to come back it must join with a \
                 token of `cfctl token create --rejoin`"
            );
            lost_prefixes(others(edges, name), &prefixes, name).into_iter().chain([own]).collect()
        }
        Role::Admin { name } => vec![format!("{certs} of admin {name} revoked for good")],
        Role::Controller { name } => {
            vec![format!(
                "{certs} of controller {name} revoked: edges and admins disconnect from it"
            )]
        }
    }
}

/// The parts of a network that are in none of `keep`, as few networks as possible.
fn subtract(net: IpNet, keep: &[IpNet]) -> Vec<IpNet> {
    if keep.iter().any(|kept| kept.contains(&net)) {
        return Vec::new();
    }
    if !keep.iter().any(|kept| net.contains(kept)) {
        return vec![net];
    }
    // A smaller network inside is kept, so the network has halves.
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| subtract(half, keep)).collect()
}

#[cfg(test)]
mod tests {
    use cframe_protocol::v1::{EdgeLiveness, Problems};
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
            no_link_to: Vec::new(),
            problems: Problems::default(),
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
    fn removing_an_edge_says_how_many_lose_what() {
        let impact = edge_del(&edges(), &[pods()], &label("prod"), &label("aws-hk"));
        assert_eq!(impact[0], "3 edges lose 10.2.0.0/16, 10.244.0.0/16 (behind aws-hk)");
        assert!(impact[1].starts_with("edge prod/aws-hk is cut off"));
        let lonely = edge_del(&edges()[..1], &[], &label("prod"), &label("aws-hk"));
        assert_eq!(lonely.len(), 1, "{lonely:?}");
    }

    #[test]
    fn only_lost_networks_are_asked_about() {
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
    fn removing_a_route_or_namespace_says_what_is_lost() {
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
    fn revoking_describes_edges_and_admins() {
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let edge = revoke(&id("spiffe://corp/ns/prod/edge/idc"), 2, &edges(), &[]);
        assert_eq!(edge[0], "3 edges lose 10.4.0.0/16 (behind idc)");
        assert!(edge[1].starts_with("2 certificates of edge prod/idc"));
        let admin = revoke(&id("spiffe://corp/admin/eve"), 1, &[], &[]);
        assert_eq!(admin, ["1 certificate of admin eve revoked for good"]);
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
