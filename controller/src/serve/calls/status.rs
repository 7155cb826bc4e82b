//! `status`: the mesh as a whole.

use std::sync::Arc;

use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, ControllerRow, EdgeLiveness, MeshStatus, NamespaceStatus, Reply};

use crate::{
    context::Context,
    decide::wire_count,
    model::{Namespace, State, expiry},
    peers,
    sessions::all::{AllSessions, SessionFilter},
};

mod links;

use links::{LinkSet, pairs};

const MAX_PROBLEMS: usize = 100;

/// The mesh as seen by all controllers that answer.
pub(super) async fn status(context: &Arc<Context>, now: u64) -> MeshStatus {
    let (sessions, others) = tokio::join!(
        peers::all_sessions(context, SessionFilter::BRIEF),
        peers::ask_all(context, &Call::Status)
    );
    let own = own_part(context);
    let (mut controllers, mut problems) = (own.controllers, own.problems);
    for (name, answer) in others {
        let unanswered = |reason: &str| {
            format!("controller {name} does not answer, its edges are not known: {reason}")
        };
        match answer {
            Ok(replies) => {
                for reply in replies {
                    if let Reply::Status(part) = reply {
                        controllers.extend(part.controllers);
                        problems.extend(part.problems);
                    }
                }
                let silent = sessions.unanswered().iter().find(|(silent, _)| *silent == name);
                problems.extend(silent.map(|(_, reason)| unanswered(reason)));
            }
            Err(failure) => problems.push(unanswered(&failure.to_string())),
        }
    }
    controllers.sort_by(|one, other| one.name.cmp(&other.name));
    problems.sort();
    context.replica.read(|state| {
        problems.extend(not_running(state, &controllers));
        problems.extend(expiring(state, now));
        let namespaces = state
            .namespaces
            .iter()
            .map(|found| namespace(&sessions, state, found, &mut problems))
            .collect();
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        if more > 0 {
            problems.truncate(MAX_PROBLEMS);
            problems.push(format!("… and {more} more"));
        }
        MeshStatus {
            mesh: state.mesh.record.name.clone(),
            controllers,
            epoch: state.mesh.record.epoch,
            mesh_revision: state.mesh.record.revision,
            namespaces,
            problems,
        }
    })
}

/// This controller's part, which another controller merges with the others'.
pub(super) fn own_part(context: &Context) -> MeshStatus {
    context.replica.read(|state| MeshStatus {
        mesh: state.mesh.record.name.clone(),
        controllers: controller(context, state).into_iter().collect(),
        epoch: state.mesh.record.epoch,
        mesh_revision: state.mesh.record.revision,
        namespaces: Vec::new(),
        problems: own_problems(context),
    })
}

fn not_running(state: &State, running: &[ControllerRow]) -> Vec<String> {
    let names = state.controllers.keys().filter(|name| {
        !state.alive.contains_key(*name) && running.iter().all(|row| row.name != **name)
    });
    names.map(|name| format!("controller {name} does not run")).collect()
}

fn controller(context: &Context, state: &State) -> Option<ControllerRow> {
    let name = context.name();
    let registered = state.controllers.get(&name);
    let address = registered.and_then(|own| own.record.addresses.first());
    Some(ControllerRow {
        address: address.or_else(|| state.mesh.record.controllers.first())?.clone(),
        name,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_secs: context.started.elapsed().as_secs(),
        store: store_status(context),
    })
}

fn store_status(context: &Context) -> String {
    let store = context.replica.store();
    let kind = store.kind();
    match (context.replica.store_problem(), store.health()) {
        (Some(problem), _) => format!("{kind}: {problem}"),
        (None, Some(health)) => format!("{kind}: ok ({health})"),
        (None, None) => format!("{kind}: ok"),
    }
}

fn own_problems(context: &Context) -> Vec<String> {
    let name = context.name();
    let problem = context.replica.store_problem();
    problem.into_iter().map(|problem| format!("controller {name}: {problem}")).collect()
}

/// The same for all controllers.
fn expiring(state: &State, now: u64) -> Vec<String> {
    let expiring = expiry::all(state, now);
    expiring
        .iter()
        .filter(|expiry| expiry.is_soon(now))
        .map(|expiry| expiry.sentence(now))
        .collect()
}

fn namespace(
    sessions: &AllSessions<'_>,
    state: &State,
    (name, space): (&Label, &Namespace),
    problems: &mut Vec<String>,
) -> NamespaceStatus {
    let newest = state.version(name).unwrap_or_default();
    let (mut online, mut in_sync) = (0, 0);
    let mut links = LinkSet::among(space);
    sessions.with_edges(name, |edges| {
        for (number, edge) in space.edges.keys().enumerate() {
            let seen = edges(edge);
            let id = state.edge_id(name, edge);
            match sessions.liveness(seen, state.certs_of.contains_key(&id)) {
                EdgeLiveness::Online { .. } => {
                    online += 1;
                    let applied = seen.and_then(|seen| seen.applied);
                    in_sync += usize::from(applied.is_some_and(|at| at.at_least(&newest)));
                }
                EdgeLiveness::Offline { .. } => {
                    problems.push(format!("edge {name}/{edge} is offline"));
                }
                // The controller that does not answer is a problem already.
                EdgeLiveness::Unknown => {}
                EdgeLiveness::NeverSeen => {
                    problems.push(format!("edge {name}/{edge} has not joined yet"));
                }
            }
            for link in seen.iter().flat_map(|seen| &seen.links).filter(|link| link.up) {
                links.insert(number, &link.peer);
            }
        }
    });
    let silent = space.edges.values().filter(|edge| edge.record.endpoints.is_empty()).count();
    NamespaceStatus {
        name: name.clone(),
        edges: wire_count(space.edges.len()),
        online: wire_count(online),
        in_sync: wire_count(in_sync),
        links_up: links.count(),
        // Two edges without endpoints cannot reach each other.
        links_expected: wire_count(pairs(space.edges.len()) - pairs(silent)),
        revision: space.record.revision,
    }
}
