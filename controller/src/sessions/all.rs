//! The sessions of all controllers together. Each controller knows its own and asks the others for theirs.

use std::collections::HashMap;

use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, EdgeLiveness, LinkReport, Reply, SessionRow, Version};

use super::{LastSeen, Registry};
use crate::model::standing::Standing;

/// The sessions of this controller and of all others that answered.
pub(crate) struct AllSessions<'a> {
    own: &'a Registry,
    /// By namespace and name.
    others: HashMap<Label, HashMap<Label, LastSeen>>,
    /// Open sessions of edges that have another one in `others`.
    parallel: HashMap<Label, HashMap<Label, LastSeen>>,
    /// Controllers that run and did not answer, with the reason.
    unanswered: Vec<(Label, String)>,
    /// Unix seconds. An edge with a certificate that no controller has seen counts as offline since then.
    since: u64,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct SessionFilter<'a> {
    pub(crate) namespace: Option<&'a Label>,
    pub(crate) edge: Option<&'a Label>,
    /// Of links only their names and whether they are up.
    pub(crate) brief: bool,
}

impl SessionFilter<'_> {
    /// All sessions, in brief.
    pub(crate) const BRIEF: SessionFilter<'static> =
        SessionFilter { namespace: None, edge: None, brief: true };

    pub(crate) fn call(&self) -> Call {
        Call::Sessions {
            namespace: self.namespace.cloned(),
            edge: self.edge.cloned(),
            brief: self.brief,
        }
    }
}

impl<'a> AllSessions<'a> {
    pub(crate) fn new(own: &'a Registry, since: u64) -> Self {
        let (others, parallel) = (HashMap::new(), HashMap::new());
        Self { own, others, parallel, unanswered: Vec::new(), since }
    }

    pub(crate) fn add_unanswered(&mut self, controller: Label, reason: String) {
        self.unanswered.push((controller, reason));
    }

    /// Controllers that run and did not answer, with the reason.
    pub(crate) fn unanswered(&self) -> &[(Label, String)] {
        &self.unanswered
    }

    /// Adds what another controller answered.
    pub(crate) fn add(&mut self, reply: Reply) {
        let Reply::Sessions(rows) = reply else { return };
        for row in rows {
            let ((namespace, edge), seen) = from_row(row);
            let others = self.others.entry(namespace.clone()).or_default();
            let older = match others.get(&edge) {
                Some(known) if !is_newer(&seen, known) => Some(seen),
                _ => others.insert(edge.clone(), seen),
            };
            if let Some(older) = older.filter(|older| older.online) {
                self.parallel.entry(namespace).or_default().insert(edge, older);
            }
        }
    }

    /// Runs a closure with a look-up of the namespace's edges by name. This controller's registry is locked
    /// meanwhile.
    pub(crate) fn with_edges<T>(
        &self,
        namespace: &Label,
        run: impl for<'s> FnOnce(&(dyn Fn(&Label) -> Seen<'s> + 's)) -> T,
    ) -> T {
        let (others, parallel) = (self.others.get(namespace), self.parallel.get(namespace));
        self.own.with_edges(namespace, |own| {
            run(&|edge: &Label| {
                let there = others.and_then(|others| others.get(edge));
                let third = parallel.and_then(|parallel| parallel.get(edge));
                let (newest, older) = match (own.last_seen(edge), there) {
                    (Some(here), Some(there)) if is_newer(there, here) => (Some(there), Some(here)),
                    (None, there) => (there, third),
                    (here, there) => (here, there),
                };
                Seen { newest, parallel: older.filter(|older| older.online) }
            })
        })
    }

    pub(crate) fn last_seen(&self, namespace: &Label, edge: &Label) -> Option<LastSeen> {
        self.with_edges(namespace, |edges| edges(edge).newest.cloned())
    }

    /// Whether an edge has a session, and the version that it last applied.
    pub(crate) fn applied(&self, namespace: &Label, edge: &Label) -> (bool, Option<Version>) {
        let seen = self.with_edges(namespace, |edges| {
            edges(edge).newest.map(|seen| (seen.online, seen.applied))
        });
        seen.unwrap_or((false, None))
    }

    pub(crate) fn liveness(&self, seen: Option<&LastSeen>, standing: Standing) -> EdgeLiveness {
        match (seen, standing) {
            (Some(LastSeen { online: true, since, .. }), _) => {
                EdgeLiveness::Online { since: *since }
            }
            (_, Standing::New) => EdgeLiveness::NeverSeen,
            (_, Standing::Revoked { since }) => EdgeLiveness::Revoked { since },
            (_, Standing::Joined) if !self.unanswered.is_empty() => EdgeLiveness::Unknown,
            (Some(LastSeen { since, .. }), Standing::Joined) => {
                EdgeLiveness::Offline { since: *since }
            }
            (None, Standing::Joined) => EdgeLiveness::Offline { since: self.since },
        }
    }
}

/// What is known of an edge.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) newest: Option<&'a LastSeen>,
    /// An older session that is open too.
    pub(crate) parallel: Option<&'a LastSeen>,
}

/// An open session is newer than a closed one, and of two alike the later one is: an edge that moved to another
/// controller may have left a session behind whose end was not noticed yet.
fn is_newer(one: &LastSeen, other: &LastSeen) -> bool {
    (one.online, one.since) > (other.online, other.since)
}

fn from_row(row: SessionRow) -> ((Label, Label), LastSeen) {
    let SessionRow { namespace, edge, online, since, software, address, applied, .. } = row;
    let SessionRow { links, problems, detail, .. } = row;
    let seen = LastSeen { online, since, software, address, applied, links, problems, detail };
    ((namespace, edge), seen)
}

/// This controller's own sessions, for another controller.
pub(crate) fn own_rows(registry: &Registry, filter: SessionFilter<'_>) -> Vec<SessionRow> {
    let wanted = |namespace: &Label, edge: &Label| {
        filter.namespace.is_none_or(|wanted| wanted == namespace)
            && filter.edge.is_none_or(|wanted| wanted == edge)
    };
    registry.rows(wanted, |namespace, edge, seen| SessionRow {
        namespace: namespace.clone(),
        edge: edge.clone(),
        online: seen.online,
        since: seen.since,
        software: seen.software.clone(),
        address: seen.address,
        applied: seen.applied,
        problems: seen.problems.clone(),
        detail: seen.detail.clone(),
        links: if filter.brief { links_in_brief(&seen.links) } else { seen.links.clone() },
    })
}

fn links_in_brief(links: &[LinkReport]) -> Vec<LinkReport> {
    let brief = |link: &LinkReport| LinkReport {
        rtt_us: 0,
        path_mtu: 0,
        since_unix: if link.up { 0 } else { link.since_unix },
        ..link.clone()
    };
    links.iter().map(brief).collect()
}

#[cfg(test)]
mod tests {
    use cframe_protocol::v1::{Problems, SessionDetail};

    use super::*;

    fn row(online: bool, since: u64) -> SessionRow {
        SessionRow {
            namespace: "prod".parse().unwrap(),
            edge: "idc".parse().unwrap(),
            online,
            since,
            software: String::new(),
            address: "192.0.2.1:1".parse().unwrap(),
            applied: None,
            links: Vec::new(),
            problems: Problems::default(),
            detail: SessionDetail::default(),
        }
    }

    /// What is known of the edge after these controllers answered one after the other.
    fn known(rows: &[(bool, u64)], unanswered: &[&str]) -> (Option<(bool, u64)>, EdgeLiveness) {
        let registry = Registry::default();
        let mut sessions = AllSessions::new(&registry, 5);
        for name in unanswered {
            sessions.add_unanswered(name.parse().unwrap(), String::new());
        }
        for (online, since) in rows {
            sessions.add(Reply::Sessions(vec![row(*online, *since)]));
        }
        let seen = sessions.last_seen(&"prod".parse().unwrap(), &"idc".parse().unwrap());
        let liveness = sessions.liveness(seen.as_ref(), Standing::Joined);
        (seen.map(|seen| (seen.online, seen.since)), liveness)
    }

    #[test]
    fn an_open_session_counts_before_a_later_end_and_the_later_of_two_before_the_earlier() {
        let online = |since| EdgeLiveness::Online { since };
        assert_eq!(known(&[(true, 10), (false, 20)], &[]), (Some((true, 10)), online(10)));
        assert_eq!(known(&[(false, 20), (true, 10)], &[]), (Some((true, 10)), online(10)));
        assert_eq!(known(&[(true, 30), (true, 10)], &[]), (Some((true, 30)), online(30)));
        let offline = |since| EdgeLiveness::Offline { since };
        assert_eq!(known(&[(false, 20), (false, 30)], &[]), (Some((false, 30)), offline(30)));
        assert_eq!(known(&[], &[]), (None, offline(5)));
    }

    #[test]
    fn what_a_silent_controller_may_know_is_not_guessed() {
        assert_eq!(known(&[(true, 10)], &["b"]).1, EdgeLiveness::Online { since: 10 });
        assert_eq!(known(&[(false, 20)], &["b"]).1, EdgeLiveness::Unknown);
        assert_eq!(known(&[], &["b"]).1, EdgeLiveness::Unknown);
    }
}
