//! Edges.

use std::collections::BTreeSet;

use cframe_pki::identity::Label;
use cframe_protocol::{
    desired::{MAX_EDGES, MAX_PREFIXES},
    v1::{CallError, EdgeRow, Endpoint, Problems, Reply},
};
use ipnet::IpNet;

use crate::{
    decide::{
        check::{self, conflict},
        draft::Draft,
        names::{by_name, in_order, list_names, natural},
        problems,
    },
    model::{
        Namespace, State, Stored,
        membership::Membership,
        record::{EdgeRecord, Key},
    },
    sessions::all::AllSessions,
};

pub(crate) fn add(
    state: &State,
    namespace: &Label,
    name: &Label,
    edge: EdgeRecord,
) -> Result<Draft, CallError> {
    let edge = EdgeRecord { membership: Some(Membership::New), ..edge };
    let space = check::namespace(state, namespace)?;
    if space.edges.contains_key(name) {
        return Err(conflict(format!(
            "edge {name} exists in namespace {namespace} already; change it with `cfctl edge set`"
        )));
    }
    if space.edges.len() >= MAX_EDGES {
        return Err(conflict(format!(
            "namespace {namespace} has {MAX_EDGES} edges, which is the maximum"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    check_edge(&mut draft, state, (namespace, space), name, &edge, None)?;
    draft.compare(Key::Edge(namespace.clone(), name.clone()), 0);
    draft.put(Key::Edge(namespace.clone(), name.clone()), &edge);
    draft.bump_namespace(namespace, space);
    Ok(draft)
}

pub(crate) struct Change<'a> {
    pub(crate) cidrs: Option<&'a [IpNet]>,
    pub(crate) endpoints: Option<&'a [Endpoint]>,
    pub(crate) description: Option<&'a str>,
    pub(crate) no_link_to: Option<&'a [Label]>,
}

pub(crate) fn set(
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
    if let Some(peers) = change.no_link_to {
        edge.no_link_to = needless_links(space, namespace, name, peers)?;
    }
    let mut draft = Draft::within(namespace, space);
    check_edge(&mut draft, state, (namespace, space), name, &edge, Some(&old.record))?;
    if edge == old.record {
        return Ok(draft);
    }
    draft.compare(Key::Edge(namespace.clone(), name.clone()), old.modified);
    draft.put(Key::Edge(namespace.clone(), name.clone()), &edge);
    if edge.cidrs != old.record.cidrs || edge.endpoints != old.record.endpoints {
        draft.bump_namespace(namespace, space);
    }
    Ok(draft)
}

/// The edges that one needs no link to.
fn needless_links(
    space: &Namespace,
    namespace: &Label,
    name: &Label,
    peers: &[Label],
) -> Result<BTreeSet<Label>, CallError> {
    for peer in peers {
        find(space, namespace, peer)?;
        if peer == name {
            return Err(check::invalid(format!("{name} is the edge itself; name other edges")));
        }
    }
    Ok(peers.iter().cloned().collect())
}

/// Writes the edge's record again, in a transaction that gives it a certificate. With its first one the edge becomes a
/// member, which the namespace's edges get to know.
pub(crate) fn record_joined(
    draft: &mut Draft,
    (namespace, space): (&Label, &Namespace),
    name: &Label,
    stored: &Stored<EdgeRecord>,
) {
    let key = Key::Edge(namespace.clone(), name.clone());
    let membership = Some(Membership::Joined);
    if stored.record.membership == membership {
        draft.rewrite(key, stored);
        return;
    }
    draft.compare(key.clone(), stored.modified);
    draft.put(key, &EdgeRecord { membership, ..stored.record.clone() });
    draft.bump_namespace(namespace, space);
}

/// Stores the membership of edges whose records are of a version that did not store it, at most `max` of one namespace.
pub(crate) fn record_memberships(state: &State, max: usize) -> Draft {
    let without =
        |space: &Namespace| space.edges.values().any(|edge| edge.record.membership.is_none());
    let Some((namespace, space)) = state.namespaces.iter().find(|(_, space)| without(space)) else {
        return Draft::default();
    };
    let mut draft = Draft::within(namespace, space);
    let edges = space.edges.iter().filter(|(_, edge)| edge.record.membership.is_none());
    for (name, edge) in edges.take(max) {
        let membership = Some(state.membership(namespace, name, &edge.record));
        let key = Key::Edge(namespace.clone(), name.clone());
        draft.compare(key.clone(), edge.modified);
        draft.put(key, &EdgeRecord { membership, ..edge.record.clone() });
    }
    draft.bump_namespace(namespace, space);
    draft
}

pub(crate) fn delete(
    state: &State,
    namespace: &Label,
    name: &Label,
    now: u64,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    let old = find(space, namespace, name)?;
    let mut draft = Draft::within(namespace, space);
    draft.delete(Key::Edge(namespace.clone(), name.clone()), old.modified);
    draft.bump_namespace(namespace, space);
    let routes: Vec<_> = space.routes_of(name).map(|(route, _)| route.clone()).collect();
    if !routes.is_empty() {
        let names = list_names(&routes);
        draft.warnings.push(format!("its {} routes are removed too: {names}", routes.len()));
    }
    for route in routes {
        draft.delete_unchecked(Key::Route(namespace.clone(), route));
    }
    for (id, token) in &state.tokens {
        if token.record.namespace == *namespace && token.record.edge == *name {
            draft.delete(Key::Token(*id), token.modified);
        }
    }
    deny_certs(&mut draft, state, namespace, name, now, "the edge was removed");
    Ok(draft)
}

/// Denies all valid certificates of an edge.
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

pub(crate) fn find<'a>(
    space: &'a Namespace,
    namespace: &Label,
    name: &Label,
) -> Result<&'a Stored<EdgeRecord>, CallError> {
    space.edges.get(name).ok_or_else(|| {
        let place = format!(" in namespace {namespace}");
        check::not_found("edge", name.as_str(), &place, space.edges.keys())
    })
}

pub(crate) fn find_in<'a>(
    state: &'a State,
    namespace: &Label,
    name: &Label,
) -> Result<&'a Stored<EdgeRecord>, CallError> {
    find(check::namespace(state, namespace)?, namespace, name)
}

/// The edges of one namespace, or of all.
pub(crate) fn list(
    state: &State,
    sessions: &AllSessions<'_>,
    namespace: Option<&Label>,
    now: u64,
) -> Result<Reply, CallError> {
    let rows = check::namespaces(state, namespace)?.flat_map(|(name, space)| {
        space.edges.iter().map(|edge| row(state, sessions, name, edge, now))
    });
    let mut rows: Vec<EdgeRow> = rows.collect();
    rows.sort_by(|one, other| {
        by_name((&one.namespace, &one.name), (&other.namespace, &other.name))
    });
    Ok(Reply::Edges(rows))
}

/// `sessions` are those of the edge, `all` those of the whole namespace, in brief.
pub(crate) fn show(
    state: &State,
    sessions: &AllSessions<'_>,
    all: &AllSessions<'_>,
    (namespace, name): (&Label, &Label),
    now: u64,
) -> Result<Reply, CallError> {
    let edge = find_in(state, namespace, name)?;
    let mut row = row(state, sessions, namespace, (name, edge), now);
    row.problems = problems::of_edge(state, all, (namespace, name), now);
    Ok(Reply::Edges(vec![row]))
}

fn row(
    state: &State,
    sessions: &AllSessions<'_>,
    namespace: &Label,
    (name, edge): (&Label, &Stored<EdgeRecord>),
    now: u64,
) -> EdgeRow {
    let id = state.edge_id(namespace, name);
    let standing = state.standing(namespace, name, &edge.record, now);
    let mut seen = sessions.last_seen(namespace, name);
    if let Some(seen) = &mut seen {
        seen.links.sort_by(|one, other| natural(&one.peer, &other.peer));
    }
    EdgeRow {
        namespace: namespace.clone(),
        name: name.clone(),
        cidrs: edge.record.cidrs.clone(),
        endpoints: edge.record.endpoints.clone(),
        description: edge.record.description.clone(),
        state: sessions.liveness(seen.as_ref(), standing),
        software: seen.as_ref().map(|seen| seen.software.clone()).unwrap_or_default(),
        address: seen.as_ref().map(|seen| seen.address),
        applied: seen.as_ref().and_then(|seen| seen.applied),
        cert_expires: state.valid_certs(&id, now).map(|(_, cert)| cert.not_after).max(),
        links: seen.map(|seen| seen.links).unwrap_or_default(),
        no_link_to: in_order(&edge.record.no_link_to),
        problems: Problems::default(),
    }
}

/// Values that the edge already has, in `old`, get no warning again.
fn check_edge(
    draft: &mut Draft,
    state: &State,
    (namespace, space): (&Label, &Namespace),
    name: &Label,
    edge: &EdgeRecord,
    old: Option<&EdgeRecord>,
) -> Result<(), CallError> {
    check::description(&edge.description)?;
    check::endpoints(&edge.endpoints)?;
    if space.prefixes.len() + edge.cidrs.len() > MAX_PREFIXES {
        return Err(conflict(format!(
            "the namespace has {MAX_PREFIXES} prefixes, which is the maximum"
        )));
    }
    draft.warnings.extend(check::edge_prefixes(space, name, &edge.cidrs)?);
    let known = |net: &&IpNet| old.is_some_and(|old| old.cidrs.contains(net));
    for net in edge.cidrs.iter().filter(|net| !known(net)) {
        draft.warnings.extend(check::prefix_warnings(state, space, *net));
    }
    let same = old.is_some_and(|old| old.endpoints == edge.endpoints);
    if !same {
        draft.warnings.extend(check::prefixes_around_endpoints(
            space,
            name,
            &edge.endpoints,
            &edge.cidrs,
        ));
        draft.warnings.extend(check::unreachable_pairs(space, name, edge));
        draft.warnings.extend(check::shared_endpoints(state, (namespace, name), &edge.endpoints));
    }
    Ok(())
}
