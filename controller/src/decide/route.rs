//! Routes.

use cframe_pki::identity::Label;
use cframe_protocol::{
    desired::MAX_PREFIXES,
    v1::{CallError, Reply, RouteRow},
};
use ipnet::IpNet;

use crate::{
    decide::{
        check::{self, conflict},
        draft::Draft,
        names::by_name,
    },
    model::{
        Namespace, State, Stored,
        record::{Key, RouteRecord},
    },
};

pub(crate) fn add(
    state: &State,
    namespace: &Label,
    name: &Label,
    prefix: IpNet,
    edge: &Label,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    super::edge::find(space, namespace, edge)?;
    if let Some(old) = space.routes.get(name) {
        return Err(conflict(format!(
            "route {name} exists in namespace {namespace} already: {} behind edge {}",
            old.record.prefix, old.record.edge
        )));
    }
    if space.prefixes.len() >= MAX_PREFIXES {
        return Err(conflict(format!(
            "the namespace has {MAX_PREFIXES} prefixes, which is the maximum"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    draft.warnings.extend(check::route_prefix(space, edge, prefix)?);
    draft.warnings.extend(check::prefix_warnings(state, space, prefix));
    let key = Key::Route(namespace.clone(), name.clone());
    draft.compare(key.clone(), 0);
    draft.put(key, &RouteRecord { prefix, edge: edge.clone() });
    draft.bump_namespace(namespace, space);
    Ok(draft)
}

pub(crate) fn delete(state: &State, namespace: &Label, name: &Label) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    let old = find(space, namespace, name)?;
    let mut draft = Draft::within(namespace, space);
    let key = Key::Route(namespace.clone(), name.clone());
    draft.compare(key.clone(), old.modified);
    draft.delete_unchecked(key);
    draft.bump_namespace(namespace, space);
    Ok(draft)
}

/// The routes of one namespace, or of all.
pub(crate) fn list(state: &State, namespace: Option<&Label>) -> Result<Reply, CallError> {
    let rows = check::namespaces(state, namespace)?
        .flat_map(|(name, space)| space.routes.iter().map(|route| row(name, route)));
    let mut rows: Vec<RouteRow> = rows.collect();
    rows.sort_by(|one, other| {
        by_name((&one.namespace, &one.name), (&other.namespace, &other.name))
    });
    Ok(Reply::Routes(rows))
}

pub(crate) fn show(state: &State, namespace: &Label, name: &Label) -> Result<Reply, CallError> {
    let route = find(check::namespace(state, namespace)?, namespace, name)?;
    Ok(Reply::Routes(vec![row(namespace, (name, route))]))
}

fn find<'a>(
    space: &'a Namespace,
    namespace: &Label,
    name: &Label,
) -> Result<&'a Stored<RouteRecord>, CallError> {
    space.routes.get(name).ok_or_else(|| {
        let place = format!(" in namespace {namespace}");
        check::not_found("route", name.as_str(), &place, space.routes.keys())
    })
}

fn row(namespace: &Label, (name, route): (&Label, &Stored<RouteRecord>)) -> RouteRow {
    RouteRow {
        namespace: namespace.clone(),
        name: name.clone(),
        prefix: route.record.prefix,
        edge: route.record.edge.clone(),
    }
}
