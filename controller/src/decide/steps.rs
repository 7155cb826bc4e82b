//! Removals that are larger than one transaction of the store.
//!
//! etcd takes 128 operations in one. So what belongs to an edge or a namespace is removed first, in several
//! transactions, routes before edges. After each of them the mesh is valid. If the controller crashes between two of
//! them, the same call continues.

use cframe_pki::identity::Label;
use cframe_protocol::v1::CallError;

use super::{check, draft::Draft, edge};
use crate::model::{
    Namespace, State,
    record::{Key, TokenRecord},
};

/// How many of the operations of a transaction a step does not use: room for those that every write adds, and for the
/// certificates of the last edge.
pub(crate) const SPARE: usize = 24;

/// Removes routes of an edge, then its tokens. `room` is the number of operations.
pub(crate) fn of_edge(
    state: &State,
    namespace: &Label,
    edge: &Label,
    room: usize,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    let mut draft = Draft::within(namespace, space);
    for (route, _) in space.routes_of(edge).take(room) {
        draft.delete_unchecked(Key::Route(namespace.clone(), route.clone()));
    }
    remove_tokens(&mut draft, state, room, |token| {
        token.namespace == *namespace && token.edge == *edge
    });
    bump_if_changed(&mut draft, namespace, space);
    Ok(draft)
}

/// Removes routes of a namespace, then its tokens, then its edges with their certificates.
pub(crate) fn of_namespace(
    state: &State,
    namespace: &Label,
    room: usize,
    now: u64,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    let mut draft = Draft::within(namespace, space);
    for route in space.routes.keys().take(room) {
        draft.delete_unchecked(Key::Route(namespace.clone(), route.clone()));
    }
    remove_tokens(&mut draft, state, room, |token| token.namespace == *namespace);
    if draft.txn.ops.is_empty() {
        let why = format!("namespace {namespace} was removed");
        for (name, stored) in &space.edges {
            if draft.size() >= room {
                break;
            }
            draft.delete(Key::Edge(namespace.clone(), name.clone()), stored.modified);
            edge::deny_certs(&mut draft, state, namespace, name, now, &why);
        }
    }
    bump_if_changed(&mut draft, namespace, space);
    Ok(draft)
}

fn remove_tokens(
    draft: &mut Draft,
    state: &State,
    room: usize,
    is_one: impl Fn(&TokenRecord) -> bool,
) {
    let left = room.saturating_sub(draft.txn.ops.len());
    let tokens = state.tokens.iter().filter(|(_, token)| is_one(&token.record));
    for (id, token) in tokens.take(left) {
        draft.delete(Key::Token(*id), token.modified);
    }
}

fn bump_if_changed(draft: &mut Draft, namespace: &Label, space: &Namespace) {
    if !draft.is_empty() {
        draft.bump_namespace(namespace, space);
    }
}
