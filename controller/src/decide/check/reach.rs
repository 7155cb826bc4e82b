//! Warnings about endpoints: what a new prefix or endpoint means for reaching edges and controllers.

use cframe_pki::identity::Label;
use cframe_protocol::v1::Endpoint;
use ipnet::IpNet;

use super::reserved;
use crate::{
    decide::names::{in_order, list_names},
    model::{Namespace, State, record::EdgeRecord},
};

/// Warnings about a new prefix.
pub fn prefix_warnings(state: &State, space: &Namespace, net: IpNet) -> Vec<String> {
    let mut warnings = reserved::warnings(net);
    warnings.extend(endpoints_within_prefix(state, space, net));
    warnings
}

/// A prefix may contain the address of an edge or a controller, because the edges' own packets have a mark that keeps them
/// on the underlay, but often it is a mistake.
pub(super) fn endpoints_within_prefix(state: &State, space: &Namespace, net: IpNet) -> Vec<String> {
    let edges = space.edges.iter().flat_map(|(name, edge)| {
        edge.record.endpoints.iter().map(move |endpoint| (endpoint, format!("edge {name}")))
    });
    let controllers = state.mesh.record.controllers.iter();
    let controllers = controllers.map(|endpoint| (endpoint, "a controller".to_owned()));
    edges
        .chain(controllers)
        .filter(|(endpoint, _)| endpoint.ip().is_some_and(|ip| net.contains(&ip)))
        .map(|(endpoint, whose)| captured(net, endpoint, &whose))
        .collect()
}

/// Warnings about new endpoints of an edge that are in a prefix of the namespace, or on the loopback.
pub fn prefixes_around_endpoints(
    space: &Namespace,
    edge: &Label,
    endpoints: &[Endpoint],
    own: &[IpNet],
) -> Vec<String> {
    let warning = |endpoint: &Endpoint| {
        let ip = endpoint.ip()?;
        if ip.is_loopback() {
            return Some(format!("endpoint {endpoint} can be reached from the same host only"));
        }
        // The namespace still has the edge's old prefixes.
        let own = own.iter().copied().find(|net| net.contains(&ip));
        let others = || space.prefixes.matching(ip).filter(|(_, source)| source.edge != *edge);
        let net = own.or_else(|| others().map(|(net, _)| net))?;
        Some(captured(net, endpoint, &format!("edge {edge}")))
    };
    endpoints.iter().filter_map(warning).collect()
}

fn captured(net: IpNet, endpoint: &Endpoint, whose: &str) -> String {
    format!(
        "{net} contains the endpoint {endpoint} of {whose}: the tunnel's own packets still take the underlay, but hosts \
         behind other edges reach that address through the mesh"
    )
}

/// Warnings about endpoints that other edges have too.
pub fn shared_endpoints(
    state: &State,
    (namespace, name): (&Label, &Label),
    endpoints: &[Endpoint],
) -> Vec<String> {
    let others = state.namespaces.iter().flat_map(|(space_name, space)| {
        space.edges.iter().map(move |(edge, stored)| ((space_name, edge), &stored.record))
    });
    let others = others.filter(|(other, _)| *other != (namespace, name));
    let shared = others.flat_map(|(other, record)| {
        let common = record.endpoints.iter().filter(|endpoint| endpoints.contains(endpoint));
        common.map(move |endpoint| (other, endpoint))
    });
    let warnings = shared.map(|((other_namespace, other), endpoint)| {
        format!(
            "edge {other_namespace}/{other} has the endpoint {endpoint} too; only one of them can be reached there"
        )
    });
    warnings.take(3).collect()
}

/// A warning about an edge without endpoints whose peers have none either.
pub fn unreachable_pairs(space: &Namespace, edge: &Label, record: &EdgeRecord) -> Option<String> {
    if !record.endpoints.is_empty() {
        return None;
    }
    let silent = space.edges.iter().filter(|(name, other)| {
        *name != edge
            && other.record.endpoints.is_empty()
            && !record.no_link_to.contains(*name)
            && !other.record.no_link_to.contains(edge)
    });
    let names = in_order(silent.map(|(name, _)| name));
    if names.is_empty() {
        return None;
    }
    // The flag replaces the edge's list.
    let all: Vec<&str> = record.no_link_to.iter().chain(&names).map(Label::as_str).collect();
    let all = all.join(",");
    Some(format!(
        "neither {edge} nor {} has an endpoint: no link between them until one has (`cfctl edge set --endpoint \
         HOST:PORT`); if none is needed: `cfctl edge set {edge} --no-link-to {all}`",
        list_names(&names)
    ))
}
