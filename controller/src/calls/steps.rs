//! Removals that are larger than one transaction of the store.
//!
//! etcd takes 128 effects at once. What is removed with an edge or a namespace is removed before it then, in
//! steps, each a whole write that leaves the mesh as it may be: first routes, then edges. If the controller dies
//! between two of them, the same call goes on where it ended.

use cframe_pki::identity::Label;
use cframe_protocol::v1::CallError;

use crate::{
    audit::Act,
    check,
    draft::Draft,
    mesh::Mesh,
    model::{Namespace, State},
    record::Key,
};

/// What a step leaves free of a transaction: for what goes with every write, and the last edge's certificates.
const SPARE: usize = 24;

/// Carries steps out until what `whole` decides fits into one transaction. Each leaves a record of its own, so
/// that the act has one too, also if it fails in the end.
pub(super) async fn make_room(
    mesh: &Mesh,
    act: &Act,
    lane: &str,
    whole: impl Fn(&State) -> Result<Draft, CallError>,
    step: impl Fn(&State, usize) -> Result<Draft, CallError>,
) -> Result<(), CallError> {
    let room = mesh.store().max_ops().saturating_sub(SPARE);
    while mesh.read(&whole)?.size() > room {
        let of_step = act.step();
        let done = mesh.write(lane, &of_step, |state| {
            let draft = step(state, room)?;
            let done = draft.is_empty();
            Ok((draft, done))
        });
        if done.await?.1 {
            break;
        }
    }
    Ok(())
}

/// Routes of an edge, then its tokens.
pub(super) fn of_edge(
    state: &State,
    namespace: &Label,
    edge: &Label,
    room: usize,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    let mut draft = Draft::within(namespace, space);
    for (route, _) in space.routes_of(edge).take(room) {
        draft.delete(Key::Route(namespace.clone(), route.clone()));
    }
    tokens(&mut draft, state, room, |token| token.namespace == *namespace && token.edge == *edge);
    end(&mut draft, namespace, space);
    Ok(draft)
}

/// Routes of a namespace, then its tokens, then its edges with their certificates.
pub(super) fn of_namespace(
    state: &State,
    namespace: &Label,
    room: usize,
    now: u64,
) -> Result<Draft, CallError> {
    let space = check::namespace(state, namespace)?;
    let mut draft = Draft::within(namespace, space);
    for route in space.routes.keys().take(room) {
        draft.delete(Key::Route(namespace.clone(), route.clone()));
    }
    tokens(&mut draft, state, room, |token| token.namespace == *namespace);
    if draft.txn.ops.is_empty() {
        let why = format!("namespace {namespace} was removed");
        for (edge, found) in &space.edges {
            if draft.size() >= room {
                break;
            }
            draft.remove(Key::Edge(namespace.clone(), edge.clone()), found.modified);
            super::edge::deny_certs(&mut draft, state, namespace, edge, now, &why);
        }
    }
    end(&mut draft, namespace, space);
    Ok(draft)
}

fn tokens(
    draft: &mut Draft,
    state: &State,
    room: usize,
    is_one: impl Fn(&crate::record::Token) -> bool,
) {
    let left = room.saturating_sub(draft.txn.ops.len());
    let tokens = state.tokens.iter().filter(|(_, token)| is_one(&token.record));
    for (id, token) in tokens.take(left) {
        draft.remove(Key::Token(*id), token.modified);
    }
}

fn end(draft: &mut Draft, namespace: &Label, space: &Namespace) {
    if !draft.is_empty() {
        draft.bump(namespace, space);
    }
}
