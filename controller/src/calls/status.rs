//! `status`: the mesh as a whole.

use std::sync::Arc;

use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, ControllerRow, EdgeLiveness, MeshStatus, NamespaceStatus, Reply};

use super::{
    count,
    sightings::{Of, Sightings},
};
use crate::{
    model::{Namespace, State},
    peers,
    server::Context,
};

/// More problems than these are summed up.
const MAX_PROBLEMS: usize = 100;

/// The mesh as all controllers that answer see it.
pub(super) async fn status(context: &Arc<Context>, now: u64) -> MeshStatus {
    let wanted = Of { brief: true, ..Of::default() };
    let (sightings, others) =
        tokio::join!(Sightings::gather(context, wanted), peers::ask_all(context, &Call::Status));
    let own = own(context);
    let (mut controllers, mut problems) = (own.controllers, own.problems);
    for (name, answer) in others {
        let unheard = |why: &str| {
            format!("controller {name} does not answer, its edges are not known: {why}")
        };
        match answer {
            Ok(replies) => {
                for reply in replies {
                    if let Reply::Status(part) = reply {
                        controllers.extend(part.controllers);
                        problems.extend(part.problems);
                    }
                }
                let sessions = sightings.unheard.iter().find(|(silent, _)| *silent == name);
                problems.extend(sessions.map(|(_, why)| unheard(why)));
            }
            Err(failure) => problems.push(unheard(&failure.to_string())),
        }
    }
    controllers.sort_by(|one, other| one.name.cmp(&other.name));
    problems.sort();
    context.mesh.read(|state| {
        problems.extend(absent(state, &controllers));
        problems.extend(expiring(state, now));
        let namespaces = state
            .namespaces
            .iter()
            .map(|(name, space)| namespace(&sightings, state, (name, space), &mut problems))
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

/// This controller's own part, which another one puts together with the others'.
pub(super) fn own(context: &Context) -> MeshStatus {
    context.mesh.read(|state| MeshStatus {
        mesh: state.mesh.record.name.clone(),
        controllers: controller(context, state).into_iter().collect(),
        epoch: state.mesh.record.epoch,
        mesh_revision: state.mesh.record.revision,
        namespaces: Vec::new(),
        problems: own_problems(context),
    })
}

/// Controllers that are registered and do not run.
fn absent(state: &State, running: &[ControllerRow]) -> Vec<String> {
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
        store: mesh_store(context),
    })
}

fn mesh_store(context: &Context) -> String {
    let store = context.mesh.store();
    let kind = store.kind();
    match (context.mesh.trouble(), store.health()) {
        (Some(trouble), _) => format!("{kind}: {trouble}"),
        (None, Some(health)) => format!("{kind}: ok ({health})"),
        (None, None) => format!("{kind}: ok"),
    }
}

fn own_problems(context: &Context) -> Vec<String> {
    let name = context.name();
    let trouble = context.mesh.trouble();
    trouble.into_iter().map(|what| format!("controller {name}: {what}")).collect()
}

/// What all controllers see alike.
fn expiring(state: &State, now: u64) -> Vec<String> {
    let expiring = crate::expiry::all(state, now);
    expiring
        .iter()
        .filter(|expiry| expiry.is_soon(now))
        .map(|expiry| expiry.sentence(now))
        .collect()
}

fn namespace(
    sightings: &Sightings<'_>,
    state: &State,
    (name, space): (&Label, &Namespace),
    problems: &mut Vec<String>,
) -> NamespaceStatus {
    let newest = state.version(name).unwrap_or_default();
    let (mut online, mut in_sync) = (0, 0);
    let mut links = Links::among(space);
    sightings.look(name, |known| {
        for (number, edge) in space.edges.keys().enumerate() {
            let seen = known(edge);
            let id = state.edge_id(name, edge);
            match sightings.liveness(seen, state.certs_of.contains_key(&id)) {
                EdgeLiveness::Online { .. } => {
                    online += 1;
                    let applied = seen.and_then(|seen| seen.applied);
                    in_sync += usize::from(applied.is_some_and(|at| at.at_least(&newest)));
                }
                EdgeLiveness::Offline { .. } => {
                    problems.push(format!("edge {name}/{edge} is offline"));
                }
                // The controller that may have it is a problem already.
                EdgeLiveness::Unknown => {}
                EdgeLiveness::NeverSeen => {
                    problems.push(format!("edge {name}/{edge} has not joined yet"));
                }
            }
            for link in seen.iter().flat_map(|seen| &seen.links).filter(|link| link.up) {
                links.up(number, &link.peer);
            }
        }
    });
    let silent = space.edges.values().filter(|edge| edge.record.endpoints.is_empty()).count();
    NamespaceStatus {
        name: name.clone(),
        edges: count(space.edges.len()),
        online: count(online),
        in_sync: count(in_sync),
        links_up: links.count(),
        // Two edges without endpoints have no path.
        links_expected: count(pairs(space.edges.len()) - pairs(silent)),
        revision: space.record.revision,
    }
}

fn pairs(edges: usize) -> usize {
    edges * edges.saturating_sub(1) / 2
}

/// Which links are up. Each has two ends that tell of it, and is one: a bit for each pair of edges, since a thousand
/// edges have half a million of them.
struct Links<'a> {
    /// In order.
    names: Vec<&'a Label>,
    /// Behind the peer that was found last: edges tell of their links in order, and ten thousand of a million.
    next: usize,
    bits: Vec<u64>,
}

impl<'a> Links<'a> {
    fn among(space: &'a Namespace) -> Self {
        let names: Vec<&Label> = space.edges.keys().collect();
        let words = pairs(names.len()).div_ceil(64);
        Self { names, next: 0, bits: vec![0; words] }
    }

    /// One of the ends says so. A peer that is gone is passed over.
    fn up(&mut self, edge: usize, peer: &Label) {
        let Some(peer) = self.number(peer).filter(|peer| *peer != edge) else { return };
        // The pairs below a number's own are all those of smaller numbers.
        let bit = pairs(edge.max(peer)) + edge.min(peer);
        if let Some(word) = self.bits.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    fn number(&mut self, name: &Label) -> Option<usize> {
        let number = if self.names.get(self.next) == Some(&name) {
            self.next
        } else {
            self.names.binary_search(&name).ok()?
        };
        self.next = number + 1;
        Some(number)
    }

    fn count(&self) -> u32 {
        self.bits.iter().map(|word| word.count_ones()).sum()
    }
}
