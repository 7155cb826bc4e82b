//! What is wrong in the mesh: what edges report and what controllers know, judged together.

use std::collections::HashMap;

use cframe_pki::identity::Label;
use cframe_protocol::{
    problem::Code,
    v1::{Endpoint, NamespaceStatus, ProblemGroup, Problems},
};

pub(crate) use self::edges::STORE_OLDER_FIX;
use self::{edges::NamespaceView, groups::Findings};
use crate::{
    decide::{names::natural, wire_count},
    model::{Namespace, State},
    sessions::all::{AllSessions, Seen},
};

mod edges;
pub(crate) mod groups;
mod links;
#[cfg(test)]
mod tests;

/// All namespaces, with what is wrong in them.
pub(crate) fn namespaces(
    state: &State,
    sessions: &AllSessions<'_>,
    now: u64,
    findings: &mut Findings,
) -> Vec<NamespaceStatus> {
    let mut found: Vec<_> = state
        .namespaces
        .iter()
        .map(|(name, space)| namespace(state, sessions, (name, space), now, findings))
        .collect();
    found.sort_by(|one, other| natural(&one.name, &other.name));
    found
}

/// What concerns one edge: its own problems, and those of its links. `sessions` are those of its namespace.
pub(crate) fn of_edge(
    state: &State,
    sessions: &AllSessions<'_>,
    (namespace_name, edge): (&Label, &Label),
    now: u64,
) -> Problems {
    let mut findings = Findings::of_edge(namespace_name, edge);
    if let Some(space) = state.namespaces.get(namespace_name) {
        namespace(state, sessions, (namespace_name, space), now, &mut findings);
    }
    findings.into_problems()
}

fn namespace(
    state: &State,
    sessions: &AllSessions<'_>,
    (name, space): (&Label, &Namespace),
    now: u64,
    findings: &mut Findings,
) -> NamespaceStatus {
    sessions.with_edges(name, |find| {
        let seen: Vec<Seen<'_>> = space.edges.keys().map(find).collect();
        let mut view = NamespaceView::new(state, sessions, (name, space), &seen, now);
        let counts = edges::judge(&mut view, findings);
        let links = links::judge(&view, findings);
        same_endpoints((name, space), findings);
        NamespaceStatus {
            name: name.clone(),
            edges: wire_count(space.edges.len()),
            online: wire_count(counts.online),
            in_sync: wire_count(counts.in_sync),
            links_up: wire_count(links.up),
            links_expected: wire_count(links.expected),
            revision: space.record.revision,
        }
    })
}

/// Edges of which every endpoint is another edge's too. An address that two networks have, such as a private one, is no
/// problem beside one of the edge's own. Edges of different namespaces have no links, and may be on one host.
fn same_endpoints((namespace, space): (&Label, &Namespace), findings: &mut Findings) {
    let mut users: HashMap<&Endpoint, Vec<&Label>> = HashMap::new();
    for (name, edge) in &space.edges {
        for endpoint in &edge.record.endpoints {
            users.entry(endpoint).or_default().push(name);
        }
    }
    for (name, edge) in &space.edges {
        let endpoints = &edge.record.endpoints;
        if endpoints.iter().any(|endpoint| users[endpoint].len() < 2) {
            continue;
        }
        let Some(shared) = endpoints.first() else { continue };
        let Some(other) = users[shared].iter().copied().find(|user| *user != name) else {
            continue;
        };
        // One problem for both, at the first of them.
        if other < name && users[shared].len() == 2 {
            continue;
        }
        findings.add(Code::SameEndpoint, (namespace, name), other.as_str(), || groups::Details {
            text: format!(
                "{namespace}/{name} and {namespace}/{other} both have the endpoint {shared}; only one of them can be \
                 reached there"
            ),
            fix: Some(format!("cfctl edge set {other} -n {namespace} --endpoint HOST:PORT")),
            since: None,
        });
    }
}

/// The groups of a status: of this controller's judgement, and of what other controllers say of themselves.
pub(crate) fn merge(mut findings: Findings, others: Vec<ProblemGroup>) -> Vec<ProblemGroup> {
    for group in others {
        findings.add_group(group);
    }
    findings.into_groups()
}
