//! `status`: the mesh as a whole.

use cframe_pki::{identity::Label, renewal::days_left};
use cframe_protocol::v1::{ControllerRow, EdgeLiveness, MeshStatus, NamespaceStatus};

use super::count;
use crate::{
    model::{Namespace, State},
    server::Context,
};

/// Days before an expiry from which it is a problem.
const SOON: i64 = 14;
/// More problems than these are summed up.
const MAX_PROBLEMS: usize = 100;

pub(super) fn status(context: &Context, now: u64) -> MeshStatus {
    let mesh = &context.mesh;
    mesh.read(|state| {
        let mut problems = own_problems(context, now);
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

fn own_problems(context: &Context, now: u64) -> Vec<String> {
    let mut problems: Vec<String> = context.mesh.trouble().into_iter().collect();
    let own = days_left(context.credentials.identity().not_after, now);
    if own < SOON {
        problems.push(format!("the controller's own certificate expires in {own} days"));
    }
    let ca = days_left(context.issuer.ca().not_after(), now);
    if ca < 2 * SOON {
        problems.push(format!("the controller's issuing CA expires in {ca} days"));
    }
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
    let sessions = &context.mesh.sessions;
    let (mut online, mut in_sync) = (0, 0);
    let mut links = Links::among(space);
    sessions.look(name, |known| {
        for (number, edge) in space.edges.keys().enumerate() {
            let seen = known.seen(edge);
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
                EdgeLiveness::NeverSeen => {
                    problems.push(format!("edge {name}/{edge} has not joined yet"));
                }
            }
            let expires = state.valid_certs(&id, now).map(|(_, cert)| cert.not_after).max();
            problems.extend(expires.and_then(|at| expiring(name, edge, at, now)));
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

fn expiring(namespace: &Label, edge: &Label, expires: u64, now: u64) -> Option<String> {
    let left = days_left(expires, now);
    (left < SOON)
        .then(|| format!("the certificate of edge {namespace}/{edge} expires in {left} days"))
}
