//! Namespaces: what is added, changed and removed. Pure decisions.

use cframe_pki::identity::Label;
use cframe_protocol::v1::{CallError, Congestion, NamespaceRow, Settings};

use crate::{
    check::{self, conflict},
    draft::Draft,
    model::{Namespace, State},
    record::{self, Key},
};

pub(super) fn add(
    state: &State,
    name: &Label,
    settings: Settings,
    description: &str,
) -> Result<Draft, CallError> {
    check::tun_mtu(settings.tun_mtu)?;
    check::description(description)?;
    if state.namespaces.contains_key(name) {
        return Err(conflict(format!("namespace {name} is there already")));
    }
    let mut draft = Draft { namespace: Some(name.clone()), ..Draft::default() };
    draft.compare(Key::Namespace(name.clone()), 0);
    let record = record::Namespace {
        description: description.to_owned(),
        settings,
        // Beyond every revision that an earlier namespace of this name can have had: each took a revision
        // of the store.
        revision: state.revision + 1,
    };
    draft.put(Key::Namespace(name.clone()), &record);
    Ok(draft)
}

pub(super) fn set(
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
        draft.bump_as(name, space, record);
    }
    Ok(draft)
}

pub(super) fn delete(
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
            some(space.edges.keys()),
        )));
    }
    let mut draft = Draft::within(name, space);
    draft.namespace = None;
    draft.delete(Key::Namespace(name.clone()));
    for (edge, found) in &space.edges {
        draft.remove(Key::Edge(name.clone(), edge.clone()), found.modified);
        let why = format!("namespace {name} was removed");
        super::edge::deny_certs(&mut draft, state, name, edge, now, &why);
    }
    for route in space.routes.keys() {
        draft.delete(Key::Route(name.clone(), route.clone()));
    }
    for (id, token) in &state.tokens {
        if token.record.namespace == *name {
            draft.remove(Key::Token(*id), token.modified);
        }
    }
    Ok(draft)
}

pub(super) fn row((name, space): (&Label, &Namespace)) -> NamespaceRow {
    NamespaceRow {
        name: name.clone(),
        description: space.record.description.clone(),
        settings: space.record.settings,
        edges: super::count(space.edges.len()),
        routes: super::count(space.routes.len()),
        revision: space.record.revision,
    }
}

/// The first few names, for a message.
pub(super) fn some<'a>(names: impl Iterator<Item = &'a Label>) -> String {
    let names: Vec<&str> = names.map(Label::as_str).collect();
    match names.get(..5) {
        Some(few) if names.len() > 5 => format!("{}, …", few.join(", ")),
        _ => names.join(", "),
    }
}
