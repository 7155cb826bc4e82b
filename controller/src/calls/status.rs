//! `status`: the mesh as a whole.

use std::collections::BTreeSet;

use cframe_pki::identity::Label;
use cframe_protocol::v1::{ControllerRow, EdgeLiveness, MeshStatus, NamespaceStatus};

use super::{count, edge};
use crate::{
    model::{Namespace, State},
    server::Context,
};

/// More problems than these are summed up.
const MAX_PROBLEMS: usize = 100;

pub(super) fn status(context: &Context, now: u64) -> MeshStatus {
    let mesh = &context.mesh;
    mesh.read(|state| {
        let mut problems = mesh_problems(context, state, now);
        let namespaces = state
            .namespaces
            .iter()
            .map(|(name, space)| namespace(context, state, (name, space), now, &mut problems))
            .collect();
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        if more > 0 {
            problems.truncate(MAX_PROBLEMS);
            problems.push(format!("… and {more} more"));
        }
        MeshStatus {
            mesh: state.mesh.record.name.clone(),
            controllers: controller(context, state).into_iter().collect(),
            epoch: state.mesh.record.epoch,
            mesh_revision: state.mesh.record.revision,
            namespaces,
            problems,
        }
    })
}

fn controller(context: &Context, state: &State) -> Option<ControllerRow> {
    let store = mesh_store(context);
    Some(ControllerRow {
        name: context.name().clone(),
        address: state.mesh.record.controllers.first()?.clone(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_secs: context.started.elapsed().as_secs(),
        store,
    })
}

fn mesh_store(context: &Context) -> String {
    let kind = context.mesh.store().kind();
    match context.mesh.trouble() {
        Some(trouble) => format!("{kind}: {trouble}"),
        None => format!("{kind}: ok"),
    }
}

fn mesh_problems(context: &Context, state: &State, now: u64) -> Vec<String> {
    let mut problems: Vec<String> = context.mesh.trouble().into_iter().collect();
    let expiring = crate::expiry::all(state, now);
    let soon = expiring.iter().filter(|expiry| expiry.is_soon(now));
    problems.extend(soon.map(|expiry| expiry.sentence(now)));
    problems
}

fn namespace(
    context: &Context,
    state: &State,
    (name, space): (&Label, &Namespace),
    now: u64,
    problems: &mut Vec<String>,
) -> NamespaceStatus {
    let newest = state.version(name).unwrap_or_default();
    let (mut online, mut in_sync) = (0, 0);
    let mut up = BTreeSet::new();
    for found in &space.edges {
        let row = edge::row(state, &context.mesh.sessions, name, found, now);
        let synced = row.applied.is_some_and(|applied| applied.at_least(&newest));
        match row.state {
            EdgeLiveness::Online { .. } => {
                online += 1;
                in_sync += usize::from(synced);
            }
            EdgeLiveness::Offline { .. } => {
                problems.push(format!("edge {name}/{} is offline", row.name))
            }
            EdgeLiveness::NeverSeen => {
                problems.push(format!("edge {name}/{} has not joined yet", row.name));
            }
        }
        // Each link has two ends that tell of it.
        let links = row.links.iter().filter(|link| link.up);
        up.extend(links.map(|link| {
            let (one, other) = (&row.name, &link.peer);
            if one < other { (one.clone(), other.clone()) } else { (other.clone(), one.clone()) }
        }));
    }
    let silent = space.edges.values().filter(|edge| edge.record.endpoints.is_empty()).count();
    let pairs = |edges: usize| edges * edges.saturating_sub(1) / 2;
    NamespaceStatus {
        name: name.clone(),
        edges: count(space.edges.len()),
        online: count(online),
        in_sync: count(in_sync),
        links_up: count(up.len()),
        // Two edges without endpoints have no path.
        links_expected: count(pairs(space.edges.len()) - pairs(silent)),
        revision: space.record.revision,
    }
}
