//! Edges one by one: whether each is a member, connected and up to date, and what it reports of itself.

use std::{collections::HashMap, net::SocketAddr};

use cframe_pki::identity::Label;
use cframe_protocol::{
    problem::Code,
    v1::{EdgeLiveness, Problem, Version},
};

use super::groups::{Details, Findings};
use crate::{
    model::{Namespace, State, record::EdgeRecord},
    sessions::{
        LastSeen,
        all::{AllSessions, Seen, Standing},
    },
};

/// Seconds that an edge may take to acknowledge an update.
const BEHIND_AFTER: u64 = 10;
/// Seconds that a controller may take to follow the store.
const AHEAD_AFTER: u64 = 3;
/// Seconds for which a host that was refused counts as there. It tries again sooner.
const RIVAL_FOR: u64 = 8;
/// Seconds after which two sessions of one edge with two controllers are not a session that moved.
const PARALLEL_AFTER: u64 = 8;

/// Seconds after the start of a controller for edges to connect again.
const RETURN_TIME: u64 = 8;

/// The edges of a namespace, by the order of their names.
pub(super) struct NamespaceView<'a> {
    pub(super) name: &'a Label,
    pub(super) now: u64,
    pub(super) edges: Vec<EdgeView<'a>>,
    newest: Version,
    /// What edges report of their links, by the numbers of reporter and peer.
    pub(super) reported: HashMap<(usize, usize), Vec<&'a Problem>>,
}

pub(super) struct EdgeView<'a> {
    pub(super) name: &'a Label,
    pub(super) record: &'a EdgeRecord,
    pub(super) liveness: EdgeLiveness,
    pub(super) seen: Option<&'a LastSeen>,
    /// Another open session, with another controller.
    parallel: Option<&'a LastSeen>,
}

impl EdgeView<'_> {
    pub(super) fn is_member(&self) -> bool {
        !matches!(self.liveness, EdgeLiveness::NeverSeen | EdgeLiveness::Revoked { .. })
    }

    /// When its session started, if it has one.
    pub(super) fn online_since(&self) -> Option<u64> {
        match self.liveness {
            EdgeLiveness::Online { since } => Some(since),
            EdgeLiveness::NeverSeen
            | EdgeLiveness::Offline { .. }
            | EdgeLiveness::Unknown
            | EdgeLiveness::Revoked { .. } => None,
        }
    }
}

impl<'a> NamespaceView<'a> {
    pub(super) fn new(
        state: &'a State,
        sessions: &AllSessions<'_>,
        (name, space): (&'a Label, &'a Namespace),
        seen: &[Seen<'a>],
        now: u64,
    ) -> Self {
        let edges = space.edges.iter().zip(seen).map(|((edge, stored), seen)| {
            let Seen { newest, parallel } = *seen;
            let standing = match newest {
                Some(seen) if seen.online => Standing::Joined,
                _ => state.standing(name, edge, &stored.record, now),
            };
            let liveness = sessions.liveness(newest, standing);
            EdgeView { name: edge, record: &stored.record, liveness, seen: newest, parallel }
        });
        Self {
            name,
            now,
            edges: edges.collect(),
            newest: state.version(name).unwrap_or_default(),
            reported: HashMap::new(),
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.edges.binary_search_by(|edge| edge.name.as_str().cmp(name)).ok()
    }
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) online: usize,
    pub(super) in_sync: usize,
}

/// Judges the edges one by one, and sorts out what they report of links.
pub(super) fn judge(view: &mut NamespaceView<'_>, findings: &mut Findings) -> Counts {
    let mut counts = Counts::default();
    let mut reported: HashMap<(usize, usize), Vec<&Problem>> = HashMap::new();
    for (number, edge) in view.edges.iter().enumerate() {
        let Some(seen) = edge.seen.filter(|_| edge.online_since().is_some()) else {
            absent(view, edge, findings);
            continue;
        };
        counts.online += 1;
        counts.in_sync += usize::from(seen.applied.is_some_and(|at| at.at_least(&view.newest)));
        present(view, edge, seen, findings);
        left_out(view, edge, seen, findings);
        for problem in &seen.problems.problems {
            let peer = view.number(&problem.about).filter(|_| is_of_link(problem.code.as_str()));
            match peer {
                Some(peer) => reported.entry((number, peer)).or_default().push(problem),
                None => findings.add_reported((view.name, edge.name), problem),
            }
        }
    }
    view.reported = reported;
    counts
}

/// Whether a problem is about the link to the peer that it names.
fn is_of_link(code: &str) -> bool {
    code.starts_with("link-") || code.starts_with("endpoint-") || code == Code::NoEndpoint.name()
}

fn absent(view: &NamespaceView<'_>, edge: &EdgeView<'_>, findings: &mut Findings) {
    let (namespace, name) = (view.name, edge.name);
    let place = (namespace, name);
    match edge.liveness {
        EdgeLiveness::NeverSeen => findings.add(Code::NotJoined, place, "", || Details {
            text: format!("edge {namespace}/{name} has not joined yet"),
            fix: Some(format!("cfctl token create -n {namespace} --edge {name}")),
            since: None,
        }),
        EdgeLiveness::Revoked { since } => findings.add(Code::EdgeRevoked, place, "", || Details {
            text: format!("edge {namespace}/{name} is revoked"),
            fix: Some(format!("cfctl token create -n {namespace} --edge {name} --rejoin")),
            since: Some(since).filter(|since| *since > 0),
        }),
        // It has not been seen since a controller started, and may be about to come back.
        EdgeLiveness::Offline { since }
            if edge.seen.is_none() && since.saturating_add(RETURN_TIME) > view.now => {}
        EdgeLiveness::Offline { since } => findings.add(Code::EdgeOffline, place, "", || Details {
            text: format!("edge {namespace}/{name} is offline"),
            fix: Some("run `cframe-edge doctor` on its host".to_owned()),
            since: Some(since),
        }),
        // The controller that does not answer is a problem already.
        EdgeLiveness::Unknown | EdgeLiveness::Online { .. } => {}
    }
}

fn present(
    view: &NamespaceView<'_>,
    edge: &EdgeView<'_>,
    seen: &LastSeen,
    findings: &mut Findings,
) {
    let (namespace, name) = (view.name, edge.name);
    let detail = &seen.detail;
    let newest = view.newest;
    if let Some(applied) = seen.applied
        && !newest.at_least(&applied)
        && detail.applied_since.saturating_add(AHEAD_AFTER) <= view.now
    {
        findings.add(Code::StoreOlder, (namespace, name), "", || Details {
            text: format!(
                "edge {namespace}/{name} has state {applied} and the store is at {newest}: the store was replaced by an \
                 older copy, and no change reaches this edge; put the newer store back, or let the edges follow this one"
            ),
            fix: Some(STORE_OLDER_FIX.to_owned()),
            since: Some(detail.applied_since),
        });
    } else if let Some(since) = detail.unacked_since
        && since.saturating_add(BEHIND_AFTER) <= view.now
    {
        findings.add(Code::EdgeBehind, (namespace, name), "", || Details {
            text: format!(
                "edge {namespace}/{name} has not applied a change that it got {} s ago",
                view.now - since
            ),
            fix: Some("run `cframe-edge doctor` on its host".to_owned()),
            since: Some(since),
        });
    }
    if let Some((rival, why)) = rival(view, edge, seen) {
        findings.add(Code::IdentityInUse, (namespace, name), "", || Details {
            text: format!(
                "the identity of edge {namespace}/{name} is used from {} and from {rival}, which {why}: its data \
                 directory was copied",
                seen.address
            ),
            fix: Some(format!(
                "stop cframe-edge on one of the two hosts; to shut both out and let the right one join again: cfctl token \
                 create -n {namespace} --edge {name} --rejoin"
            )),
            since: None,
        });
    }
}

/// Problems that the edge has not reported because there are too many. Links that are down are known without them.
fn left_out(
    view: &NamespaceView<'_>,
    edge: &EdgeView<'_>,
    seen: &LastSeen,
    findings: &mut Findings,
) {
    let down = seen.links.iter().filter(|link| !link.up).count();
    let named = |problem: &&Problem| is_of_link(problem.code.as_str());
    let named = seen.problems.problems.iter().filter(named).count();
    let more = seen.problems.more as usize;
    let more = more.saturating_sub(down.saturating_sub(named));
    if more > 0 {
        let (namespace, name) = (view.name, edge.name);
        findings.add(Code::MoreProblems, (namespace, name), "", || Details {
            text: format!("edge {namespace}/{name} has {more} more problems than are shown here"),
            fix: Some("run `cframe-edge doctor` on its host".to_owned()),
            since: None,
        });
    }
}

/// It ends the problem whatever the reason. If the newer store is still somewhere, putting it back loses nothing.
pub(crate) const STORE_OLDER_FIX: &str = "cfctl store accept --yes";

/// Another host with the same identity.
fn rival(
    view: &NamespaceView<'_>,
    edge: &EdgeView<'_>,
    seen: &LastSeen,
) -> Option<(SocketAddr, &'static str)> {
    if let Some(rival) = seen.detail.rival
        && rival.at.saturating_add(RIVAL_FOR) > view.now
    {
        return Some((rival.address, "is refused"));
    }
    let other = edge.parallel.filter(|other| other.detail.boot != seen.detail.boot)?;
    let since = seen.since.max(other.since);
    let lasting = since.saturating_add(PARALLEL_AFTER) <= view.now;
    lasting.then_some((other.address, "has a session with another controller"))
}
