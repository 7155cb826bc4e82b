//! Namespaces.

use cframe_pki::identity::Label;
use cframe_protocol::v1::{CallError, Congestion, NamespaceRow, Reply, Settings};

use crate::{
    decide::{
        check::{self, conflict},
        draft::Draft,
        names::{list_names, natural},
        wire_count,
    },
    model::{
        Namespace, State,
        record::{Key, NamespaceRecord},
    },
};

pub(crate) fn add(
    state: &State,
    name: &Label,
    settings: Settings,
    description: &str,
) -> Result<Draft, CallError> {
    check::tun_mtu(settings.tun_mtu)?;
    check::description(description)?;
    if state.namespaces.contains_key(name) {
        return Err(conflict(format!("namespace {name} exists already")));
    }
    let mut draft = Draft { namespace: Some(name.clone()), ..Draft::default() };
    draft.compare(Key::Namespace(name.clone()), 0);
    let record = NamespaceRecord {
        description: description.to_owned(),
        settings,
        // Higher than any revision of an earlier namespace of this name: each of those took a revision of the store.
        revision: state.revision + 1,
    };
    draft.put(Key::Namespace(name.clone()), &record);
    Ok(draft)
}

pub(crate) fn set(
    state: &State,
    name: &Label,
    tun_mtu: Option<u16>,
    congestion: Option<Congestion>,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, name)?;
    let mut record = space.record.clone();
    if let Some(mtu) = tun_mtu {
        check::tun_mtu(mtu)?;
        record.settings.tun_mtu = mtu;
    }
    record.settings.congestion = congestion.unwrap_or(record.settings.congestion);
    let mut draft = Draft::within(name, space);
    if record != space.record {
        draft.bump_namespace_to(name, space, record);
    }
    Ok(draft)
}

pub(crate) fn delete(
    state: &State,
    name: &Label,
    cascade: bool,
    now: u64,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, name)?;
    if !cascade && !space.edges.is_empty() {
        return Err(conflict(format!(
            "namespace {name} has {} edges ({}); remove them first, or give --cascade",
            space.edges.len(),
            list_names(space.edges.keys()),
        )));
    }
    let mut draft = Draft::within(name, space);
    draft.namespace = None;
    draft.delete_unchecked(Key::Namespace(name.clone()));
    for (edge, stored) in &space.edges {
        draft.delete(Key::Edge(name.clone(), edge.clone()), stored.modified);
        let why = format!("namespace {name} was removed");
        super::edge::deny_certs(&mut draft, state, name, edge, now, &why);
    }
    for route in space.routes.keys() {
        draft.delete_unchecked(Key::Route(name.clone(), route.clone()));
    }
    for (id, token) in &state.tokens {
        if token.record.namespace == *name {
            draft.delete(Key::Token(*id), token.modified);
        }
    }
    Ok(draft)
}

pub(crate) fn list(state: &State) -> Reply {
    let mut rows: Vec<NamespaceRow> = state.namespaces.iter().map(row).collect();
    rows.sort_by(|one, other| natural(&one.name, &other.name));
    Reply::Namespaces(rows)
}

pub(crate) fn show(state: &State, name: &Label) -> Result<Reply, CallError> {
    Ok(Reply::Namespaces(vec![row((name, check::namespace(state, name)?))]))
}

fn row((name, space): (&Label, &Namespace)) -> NamespaceRow {
    NamespaceRow {
        name: name.clone(),
        description: space.record.description.clone(),
        settings: space.record.settings,
        edges: wire_count(space.edges.len()),
        routes: wire_count(space.routes.len()),
        revision: space.record.revision,
    }
}
