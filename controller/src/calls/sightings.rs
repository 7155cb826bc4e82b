//! What all controllers together know of the edges' sessions: each has its own, and is asked for them.

use std::{collections::HashMap, sync::Arc};

use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, EdgeLiveness, LinkReport, Reply, SessionRow, Version};

use crate::{
    model::State,
    peers, presence,
    server::Context,
    session::{Registry, Seen},
};

/// The sessions of all controllers that answered.
pub(crate) struct Sightings<'a> {
    local: &'a Registry,
    /// By namespace and name.
    others: HashMap<Label, HashMap<Label, Seen>>,
    /// The controllers that run and did not answer, with the reason.
    pub(super) unheard: Vec<(Label, String)>,
    /// Edges that nobody has seen are offline since then, in Unix seconds.
    started: u64,
}

/// All of them, in brief.
pub(crate) const BRIEF: Of<'static> = Of { namespace: None, edge: None, brief: true };

/// Which sessions are wanted.
#[derive(Clone, Copy, Default)]
pub(crate) struct Of<'a> {
    pub(super) namespace: Option<&'a Label>,
    pub(super) edge: Option<&'a Label>,
    /// Of links no more than which are up.
    pub(super) brief: bool,
}

impl<'a> Sightings<'a> {
    pub(crate) async fn gather(context: &'a Arc<Context>, of: Of<'_>) -> Self {
        let call = Call::Sessions {
            namespace: of.namespace.cloned(),
            edge: of.edge.cloned(),
            brief: of.brief,
        };
        let started = |state: &State| {
            presence::running(state).map(|name| state.alive[name].record.started).max()
        };
        let mut sightings = Self {
            local: &context.mesh.sessions,
            others: HashMap::new(),
            unheard: Vec::new(),
            started: context.mesh.read(started).unwrap_or(0).max(context.began),
        };
        for (name, answer) in peers::ask_all(context, &call).await {
            match answer {
                Ok(replies) => replies.into_iter().for_each(|reply| sightings.take(reply)),
                Err(failure) => {
                    tracing::warn!(controller = %name, error = %failure, "no answer");
                    sightings.unheard.push((name, failure.to_string()));
                }
            }
        }
        sightings
    }

    fn take(&mut self, reply: Reply) {
        let Reply::Sessions(rows) = reply else { return };
        for row in rows {
            let ((namespace, edge), seen) = seen(row);
            let others = self.others.entry(namespace).or_default();
            if others.get(&edge).is_none_or(|known| is_newer(&seen, known)) {
                others.insert(edge, seen);
            }
        }
    }

    /// Looks at what is known of a namespace's edges, each by its name, for as long as it takes: of the session
    /// that it has, or of the last of those that it had.
    pub(super) fn look<T>(
        &self,
        namespace: &Label,
        with: impl for<'s> FnOnce(&(dyn Fn(&Label) -> Option<&'s Seen> + 's)) -> T,
    ) -> T {
        let others = self.others.get(namespace);
        self.local.look(namespace, |known| {
            with(&|edge: &Label| {
                let there = others.and_then(|others| others.get(edge));
                match (known.seen(edge), there) {
                    (Some(here), Some(there)) if is_newer(there, here) => Some(there),
                    (None, there) => there,
                    (here, _) => here,
                }
            })
        })
    }

    /// The same of one edge.
    pub(super) fn seen(&self, namespace: &Label, edge: &Label) -> Option<Seen> {
        self.look(namespace, |known| known(edge).cloned())
    }

    /// Whether an edge has a session, and what it was last known to have applied.
    pub(crate) fn applied(&self, namespace: &Label, edge: &Label) -> (bool, Option<Version>) {
        let seen =
            self.look(namespace, |known| known(edge).map(|seen| (seen.online, seen.applied)));
        seen.unwrap_or((false, None))
    }

    /// How an edge is to be shown.
    pub(super) fn liveness(&self, seen: Option<&Seen>, enrolled: bool) -> EdgeLiveness {
        match seen {
            Some(Seen { online: true, since, .. }) => EdgeLiveness::Online { since: *since },
            _ if enrolled && !self.unheard.is_empty() => EdgeLiveness::Unknown,
            Some(Seen { since, .. }) => EdgeLiveness::Offline { since: *since },
            None if enrolled => EdgeLiveness::Offline { since: self.started },
            None => EdgeLiveness::NeverSeen,
        }
    }
}

/// A session that stands says more than one that doesn't, and of two of a kind the later: an edge that moved
/// may have left one behind that its controller has not missed yet.
fn is_newer(one: &Seen, other: &Seen) -> bool {
    (one.online, one.since) > (other.online, other.since)
}

fn seen(row: SessionRow) -> ((Label, Label), Seen) {
    let SessionRow { namespace, edge, online, since, software, address, applied, links } = row;
    ((namespace, edge), Seen { online, since, software, address, applied, links })
}

/// This controller's own sessions, for another one.
pub(super) fn sessions(registry: &Registry, of: Of<'_>) -> Reply {
    let wanted = |namespace: &Label, edge: &Label| {
        of.namespace.is_none_or(|wanted| wanted == namespace)
            && of.edge.is_none_or(|wanted| wanted == edge)
    };
    let rows = registry.all(wanted, |namespace, edge, seen| SessionRow {
        namespace: namespace.clone(),
        edge: edge.clone(),
        online: seen.online,
        since: seen.since,
        software: seen.software.clone(),
        address: seen.address,
        applied: seen.applied,
        links: if of.brief { brief(&seen.links) } else { seen.links.clone() },
    });
    Reply::Sessions(rows)
}

/// Only which links are up.
fn brief(links: &[LinkReport]) -> Vec<LinkReport> {
    let up = links.iter().filter(|link| link.up);
    up.map(|link| LinkReport { rtt_us: 0, path_mtu: 0, since_unix: 0, ..link.clone() }).collect()
}

#[cfg(test)]
mod tests {
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
        }
    }

    /// What is known of the edge after these controllers have answered in turn.
    fn known(rows: &[(bool, u64)], unheard: &[&str]) -> (Option<(bool, u64)>, EdgeLiveness) {
        let registry = Registry::default();
        let unheard = unheard.iter().map(|name| (name.parse().unwrap(), String::new())).collect();
        let mut sightings =
            Sightings { local: &registry, others: HashMap::new(), unheard, started: 5 };
        for (online, since) in rows {
            sightings.take(Reply::Sessions(vec![row(*online, *since)]));
        }
        let seen = sightings.seen(&"prod".parse().unwrap(), &"idc".parse().unwrap());
        let liveness = sightings.liveness(seen.as_ref(), true);
        (seen.map(|seen| (seen.online, seen.since)), liveness)
    }

    #[test]
    fn a_session_that_stands_counts_before_a_later_end_and_the_later_of_two_before_the_earlier() {
        let online = |since| EdgeLiveness::Online { since };
        assert_eq!(known(&[(true, 10), (false, 20)], &[]), (Some((true, 10)), online(10)));
        assert_eq!(known(&[(false, 20), (true, 10)], &[]), (Some((true, 10)), online(10)));
        assert_eq!(known(&[(true, 30), (true, 10)], &[]), (Some((true, 30)), online(30)));
        let offline = |since| EdgeLiveness::Offline { since };
        assert_eq!(known(&[(false, 20), (false, 30)], &[]), (Some((false, 30)), offline(30)));
        assert_eq!(known(&[], &[]), (None, offline(5)));
    }

    #[test]
    fn what_a_silent_controller_may_know_is_not_made_up() {
        assert_eq!(known(&[(true, 10)], &["b"]).1, EdgeLiveness::Online { since: 10 });
        assert_eq!(known(&[(false, 20)], &["b"]).1, EdgeLiveness::Unknown);
        assert_eq!(known(&[], &["b"]).1, EdgeLiveness::Unknown);
    }
}
