//! Routes: pure decisions.

use cframe_pki::identity::Label;
use cframe_protocol::{
    desired::MAX_PREFIXES,
    v1::{CallError, RouteRow},
};
use ipnet::IpNet;

use crate::{
    check::{self, conflict},
    draft::Draft,
    model::{Namespace, State, Stored},
    record::{self, Key},
};

pub(super) fn add(
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
            "route {name} is in namespace {namespace} already: {} behind edge {}",
            old.record.prefix, old.record.edge
        )));
    }
    if space.prefixes.len() >= MAX_PREFIXES {
        return Err(conflict(format!(
            "the namespace has {MAX_PREFIXES} prefixes, the most there can be"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    draft.warnings.extend(check::route_prefix(space, edge, prefix)?);
    draft.warnings.extend(check::captured_endpoints(state, space, prefix));
    let key = Key::Route(namespace.clone(), name.clone());
    draft.compare(key.clone(), 0);
    draft.put(key, &record::Route { prefix, edge: edge.clone() });
    draft.bump(namespace, space);
    Ok(draft)
}

pub(super) fn delete(state: &State, namespace: &Label, name: &Label) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    let old = find(space, namespace, name)?;
    let mut draft = Draft::within(namespace, space);
    let key = Key::Route(namespace.clone(), name.clone());
    draft.compare(key.clone(), old.modified);
    draft.delete(key);
    draft.bump(namespace, space);
    Ok(draft)
}

pub(super) fn find<'a>(
    space: &'a Namespace,
    namespace: &Label,
    name: &Label,
) -> Result<&'a Stored<record::Route>, CallError> {
    space.routes.get(name).ok_or_else(|| {
        let whereabouts = format!(" in namespace {namespace}");
        check::not_found("route", name.as_str(), &whereabouts, space.routes.keys())
    })
}

pub(super) fn row(namespace: &Label, (name, route): (&Label, &Stored<record::Route>)) -> RouteRow {
    RouteRow {
        namespace: namespace.clone(),
        name: name.clone(),
        prefix: route.record.prefix,
        edge: route.record.edge.clone(),
    }
}
