//! Edges: pure decisions.

use cframe_pki::identity::Label;
use cframe_protocol::{
    desired::{MAX_EDGES, MAX_PREFIXES},
    v1::{CallError, EdgeRow, Endpoint},
};
use ipnet::IpNet;

use crate::{
    check::{self, conflict},
    draft::Draft,
    model::{Namespace, State, Stored},
    record::{self, Key},
};

use super::sightings::Sightings;

pub(super) fn add(
    state: &State,
    namespace: &Label,
    name: &Label,
    edge: record::Edge,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    if space.edges.contains_key(name) {
        return Err(conflict(format!(
            "edge {name} is in namespace {namespace} already; change it by `cfctl edge set`"
        )));
    }
    if space.edges.len() >= MAX_EDGES {
        return Err(conflict(format!(
            "namespace {namespace} has {MAX_EDGES} edges, the most there can be"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    check_edge(&mut draft, state, space, name, &edge, None)?;
    draft.compare(Key::Edge(namespace.clone(), name.clone()), 0);
    draft.put(Key::Edge(namespace.clone(), name.clone()), &edge);
    draft.bump(namespace, space);
    Ok(draft)
}

/// What `edge set` changes.
pub(super) struct Change<'a> {
    pub(super) cidrs: Option<&'a [IpNet]>,
    pub(super) endpoints: Option<&'a [Endpoint]>,
    pub(super) description: Option<&'a str>,
}

pub(super) fn set(
    state: &State,
    namespace: &Label,
    name: &Label,
    change: &Change<'_>,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    let old = find(space, namespace, name)?;
    let mut edge = old.record.clone();
    if let Some(cidrs) = change.cidrs {
        edge.cidrs = cidrs.to_vec();
    }
    if let Some(endpoints) = change.endpoints {
        edge.endpoints = endpoints.to_vec();
    }
    if let Some(description) = change.description {
        edge.description = description.to_owned();
    }
    let mut draft = Draft::within(namespace, space);
    check_edge(&mut draft, state, space, name, &edge, Some(&old.record))?;
    if edge == old.record {
        return Ok(draft);
    }
    draft.compare(Key::Edge(namespace.clone(), name.clone()), old.modified);
    draft.put(Key::Edge(namespace.clone(), name.clone()), &edge);
    if edge.cidrs != old.record.cidrs || edge.endpoints != old.record.endpoints {
        draft.bump(namespace, space);
    }
    Ok(draft)
}

pub(super) fn delete(
    state: &State,
    namespace: &Label,
    name: &Label,
    now: u64,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    let old = find(space, namespace, name)?;
    let mut draft = Draft::within(namespace, space);
    draft.remove(Key::Edge(namespace.clone(), name.clone()), old.modified);
    draft.bump(namespace, space);
    let routes: Vec<_> = space.routes_of(name).map(|(route, _)| route.clone()).collect();
    if !routes.is_empty() {
        let some = super::namespace::some(routes.iter());
        draft.warnings.push(format!("its {} routes are gone too: {some}", routes.len()));
    }
    for route in routes {
        draft.delete(Key::Route(namespace.clone(), route));
    }
    for (id, token) in &state.tokens {
        if token.record.namespace == *namespace && token.record.edge == *name {
            draft.remove(Key::Token(*id), token.modified);
        }
    }
    deny_certs(&mut draft, state, namespace, name, now, "the edge was removed");
    Ok(draft)
}

/// Denies every certificate of an edge that is still valid.
pub(crate) fn deny_certs(
    draft: &mut Draft,
    state: &State,
    namespace: &Label,
    name: &Label,
    now: u64,
    why: &str,
) {
    for (serial, cert) in state.valid_certs(&state.edge_id(namespace, name), now) {
        draft.deny(state, serial, cert, now, why);
    }
}

/// The edge, or a refusal.
pub(crate) fn find<'a>(
    space: &'a Namespace,
    namespace: &Label,
    name: &Label,
) -> Result<&'a Stored<record::Edge>, CallError> {
    space.edges.get(name).ok_or_else(|| {
        let whereabouts = format!(" in namespace {namespace}");
        check::not_found("edge", name.as_str(), &whereabouts, space.edges.keys())
    })
}

pub(super) fn row(
    state: &State,
    sightings: &Sightings<'_>,
    namespace: &Label,
    (name, edge): (&Label, &Stored<record::Edge>),
    now: u64,
) -> EdgeRow {
    let id = state.edge_id(namespace, name);
    let enrolled = state.certs_of.contains_key(&id);
    let seen = sightings.seen(namespace, name);
    EdgeRow {
        namespace: namespace.clone(),
        name: name.clone(),
        cidrs: edge.record.cidrs.clone(),
        endpoints: edge.record.endpoints.clone(),
        description: edge.record.description.clone(),
        state: sightings.liveness(seen.as_ref(), enrolled),
        software: seen.as_ref().map(|seen| seen.software.clone()).unwrap_or_default(),
        address: seen.as_ref().map(|seen| seen.address),
        applied: seen.as_ref().and_then(|seen| seen.applied),
        cert_expires: state.valid_certs(&id, now).map(|(_, cert)| cert.not_after).max(),
        links: seen.map(|seen| seen.links).unwrap_or_default(),
    }
}

/// `old` is the edge as it is, whose own values need no warning again.
fn check_edge(
    draft: &mut Draft,
    state: &State,
    space: &Namespace,
    name: &Label,
    edge: &record::Edge,
    old: Option<&record::Edge>,
) -> Result<(), CallError> {
    check::description(&edge.description)?;
    check::endpoints(&edge.endpoints)?;
    if space.prefixes.len() + edge.cidrs.len() > MAX_PREFIXES {
        return Err(conflict(format!(
            "the namespace has {MAX_PREFIXES} prefixes, the most there can be"
        )));
    }
    draft.warnings.extend(check::edge_prefixes(space, name, &edge.cidrs)?);
    let known = |net: &&IpNet| old.is_some_and(|old| old.cidrs.contains(net));
    for net in edge.cidrs.iter().filter(|net| !known(net)) {
        draft.warnings.extend(check::captured_endpoints(state, space, *net));
    }
    let same = old.is_some_and(|old| old.endpoints == edge.endpoints);
    if !same {
        draft.warnings.extend(check::endpoints_captured(space, name, &edge.endpoints, &edge.cidrs));
        draft.warnings.extend(check::unreachable_pairs(space, name, &edge.endpoints));
    }
    Ok(())
}
