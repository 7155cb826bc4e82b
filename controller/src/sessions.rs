//! Which edges have a session with this controller, and what is known of those that had one.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cframe_pki::{
    identity::Label,
    verifier::{PeerIdentity, Refusal},
};
use cframe_protocol::v1::{
    GoodbyeReason, LinkReport, Problems, Report, Rival, SessionDetail, Version,
};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;

pub(crate) mod all;
mod claim;

pub(crate) use claim::Claim;

/// Orders that wait for a session: one of each kind is enough.
const MAX_ORDERS: usize = 4;

/// All sessions. The lock is held for look-ups and never across an await.
#[derive(Debug)]
pub struct Registry {
    edges: Mutex<Edges>,
    /// Counts the changes that `--wait` is interested in: acknowledgements, sessions that start or end.
    progress: watch::Sender<u64>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Edges {
    /// By namespace and name.
    namespaces: HashMap<Label, HashMap<Label, Edge>>,
    /// How many of them have a session.
    sessions: usize,
}

/// What is known of the edges of one namespace.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceEdges<'a>(Option<&'a HashMap<Label, Edge>>);

impl<'a> NamespaceEdges<'a> {
    pub fn last_seen(self, name: &Label) -> Option<&'a LastSeen> {
        self.0?.get(name).map(|edge| &edge.seen)
    }
}

#[derive(Debug)]
struct Edge {
    session: Option<Handle>,
    seen: LastSeen,
}

#[derive(Debug)]
struct Handle {
    number: u64,
    peer: PeerIdentity,
    orders: mpsc::Sender<Order>,
    end: watch::Sender<Option<GoodbyeReason>>,
    /// The answers to pings in this session.
    pongs: watch::Receiver<u64>,
    /// The round-trip time, as last measured.
    rtt: Duration,
}

/// What a session has to do for somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Have the edge renew its certificate.
    RenewNow,
    /// Send a ping: another host claims the identity.
    Ping,
}

/// What is known of an edge that has, or had, a session here.
#[derive(Debug, Clone)]
pub struct LastSeen {
    /// Whether it has a session now.
    pub online: bool,
    /// When `online` last changed, in Unix seconds.
    pub since: u64,
    pub software: String,
    pub address: SocketAddr,
    /// The version that it applied last.
    pub applied: Option<Version>,
    /// Its links, as last reported; empty without a session.
    pub links: Vec<LinkReport>,
    /// What is wrong there, as last reported; empty without a session.
    pub problems: Problems,
    pub detail: SessionDetail,
}

/// A session's entry in the registry; dropping it ends the entry.
pub struct Entry<'a> {
    registry: &'a Registry,
    key: (Label, Label),
    number: u64,
    now: Clock,
    pub orders: mpsc::Receiver<Order>,
    pongs: watch::Sender<u64>,
    /// Set when the session has to end, with the reason.
    pub end: watch::Receiver<Option<GoodbyeReason>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { edges: Mutex::default(), progress: watch::channel(0).0, next: AtomicU64::new(1) }
    }
}

impl Registry {
    /// Registers a session. If the edge has one already, that one ends as replaced.
    pub fn enter(
        &self,
        key: (Label, Label),
        peer: PeerIdentity,
        seen: LastSeen,
        now: Clock,
    ) -> Entry<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (orders, queue) = mpsc::channel(MAX_ORDERS);
        let (end, reason) = watch::channel(None);
        let (pong_count, pongs) = watch::channel(0);
        let handle = Handle { number, peer, orders, end, pongs, rtt: Duration::ZERO };
        let before = self.lock().insert(&key, Edge { session: Some(handle), seen });
        if let Some(Handle { end, .. }) = before {
            end_session(&end, GoodbyeReason::Replaced);
        }
        self.count_progress();
        let pongs = pong_count;
        Entry { registry: self, key, number, now, orders: queue, pongs, end: reason }
    }

    /// Forgets an edge that was removed, and ends its session.
    pub fn remove(&self, namespace: &Label, edge: &Label) {
        let removed = self.lock().remove(namespace, edge);
        if let Some(Handle { end, .. }) = removed {
            end_session(&end, GoodbyeReason::Removed);
        }
        self.count_progress();
    }

    /// Ends the sessions of all peers for which `reason` gives one.
    pub fn close_where(&self, reason: impl Fn(&PeerIdentity) -> Option<GoodbyeReason>) {
        for edge in self.lock().namespaces.values().flat_map(HashMap::values) {
            let Some(session) = &edge.session else { continue };
            if let Some(reason) = reason(&session.peer) {
                end_session(&session.end, reason);
            }
        }
    }

    /// Sends an order to an edge's session; false if the edge has none here.
    pub fn send_order(&self, namespace: &Label, edge: &Label, order: Order) -> bool {
        let edges = self.lock();
        let session = edges.get(namespace, edge).and_then(|edge| edge.session.as_ref());
        // A full queue holds the same order already.
        session.is_some_and(|session| {
            !matches!(session.orders.try_send(order), Err(mpsc::error::TrySendError::Closed(_)))
        })
    }

    /// Runs a closure with what is known of a namespace's edges, under the lock.
    pub fn with_edges<T>(&self, namespace: &Label, run: impl FnOnce(NamespaceEdges<'_>) -> T) -> T {
        run(NamespaceEdges(self.lock().namespaces.get(namespace)))
    }

    /// A namespace's edges that have, or had, a session here, without their links and problems.
    pub fn edges_of(&self, namespace: &Label) -> Vec<(Label, LastSeen)> {
        let edges = self.lock();
        let edges = edges.namespaces.get(namespace).into_iter().flatten();
        edges
            .map(|(name, edge)| {
                // All fields by name, so that a new list is not copied by mistake.
                let LastSeen {
                    online,
                    since,
                    software,
                    address,
                    applied,
                    links: _,
                    problems: _,
                    detail,
                } = &edge.seen;
                let seen = LastSeen {
                    online: *online,
                    since: *since,
                    software: software.clone(),
                    address: *address,
                    applied: *applied,
                    links: Vec::new(),
                    problems: Problems::default(),
                    detail: detail.clone(),
                };
                (name.clone(), seen)
            })
            .collect()
    }

    /// One row for each known edge that is wanted.
    pub fn rows<T>(
        &self,
        wanted: impl Fn(&Label, &Label) -> bool,
        row: impl Fn(&Label, &Label, &LastSeen) -> T,
    ) -> Vec<T> {
        let edges = self.lock();
        let all = edges.namespaces.iter();
        let all = all.flat_map(|(namespace, of)| of.iter().map(move |edge| (namespace, edge)));
        let wanted = all.filter(|(namespace, (name, _))| wanted(namespace, name));
        wanted.map(|(namespace, (name, edge))| row(namespace, name, &edge.seen)).collect()
    }

    /// The number of sessions.
    pub fn count(&self) -> usize {
        self.lock().sessions
    }

    /// Changes whenever something changes that [`edges_of`](Self::edges_of) shows.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    fn count_progress(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Edges> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Edges {
    fn get(&self, namespace: &Label, name: &Label) -> Option<&Edge> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// Inserts an edge with a session, and returns the session that it had before.
    fn insert(&mut self, (namespace, name): &(Label, Label), edge: Edge) -> Option<Handle> {
        let edges = self.namespaces.entry(namespace.clone()).or_default();
        let before = edges.insert(name.clone(), edge).and_then(|edge| edge.session);
        self.sessions += usize::from(before.is_none());
        before
    }

    /// Removes an edge, and returns the session that it had.
    fn remove(&mut self, namespace: &Label, name: &Label) -> Option<Handle> {
        let edges = self.namespaces.get_mut(namespace)?;
        let before = edges.remove(name).and_then(|edge| edge.session);
        if edges.is_empty() {
            self.namespaces.remove(namespace);
        }
        self.sessions -= usize::from(before.is_some());
        before
    }
}

impl Entry<'_> {
    /// Records that the edge applied a version.
    pub fn set_applied(&self, version: Version) {
        let now = (self.now)();
        self.update(|seen| {
            seen.applied = Some(version);
            seen.detail.applied_since = now;
            seen.detail.unacked_since = None;
        });
        self.registry.count_progress();
    }

    /// Records that an update was sent.
    pub fn set_sent(&self) {
        let now = (self.now)();
        self.update(|seen| seen.detail.unacked_since = Some(now));
    }

    /// Records the round-trip time of the session's connection.
    pub fn set_rtt(&self, rtt: Duration) {
        let mut edges = self.registry.lock();
        if let Some(session) = self.own_edge(&mut edges).and_then(|edge| edge.session.as_mut()) {
            session.rtt = rtt;
        }
    }

    /// Records that the edge answered a ping.
    pub fn count_pong(&self) {
        self.pongs.send_modify(|count| *count += 1);
    }

    pub fn set_report(&self, report: Report) {
        self.update(|seen| seen.links = report.links);
    }

    pub fn set_problems(&self, problems: Problems) {
        self.update(|seen| seen.problems = problems);
    }

    fn update(&self, change: impl FnOnce(&mut LastSeen)) {
        if let Some(edge) = self.own_edge(&mut self.registry.lock()) {
            change(&mut edge.seen);
        }
    }

    /// `None` if the edge was removed, or has a newer session.
    fn own_edge<'e>(&self, edges: &'e mut Edges) -> Option<&'e mut Edge> {
        let edge = edges.namespaces.get_mut(&self.key.0)?.get_mut(&self.key.1)?;
        let is_own = edge.session.as_ref().is_some_and(|session| session.number == self.number);
        is_own.then_some(edge)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let now = (self.now)();
        let mut edges = self.registry.lock();
        if let Some(edge) = self.own_edge(&mut edges) {
            edge.session = None;
            edge.seen.online = false;
            // Without a session nobody knows whether its links are still up.
            edge.seen.links = Vec::new();
            edge.seen.problems = Problems::default();
            edge.seen.detail.unacked_since = None;
            edge.seen.detail.rival = None;
            edge.seen.since = now;
            edges.sessions -= 1;
        }
        drop(edges);
        self.registry.count_progress();
    }
}

/// The first reason counts.
fn end_session(end: &watch::Sender<Option<GoodbyeReason>>, reason: GoodbyeReason) {
    end.send_if_modified(|current| {
        let first = current.is_none();
        if first {
            *current = Some(reason);
        }
        first
    });
}

/// The reason that a refused edge gets. If its root was removed, it may have a newer certificate and should
/// come back with that one.
pub(crate) fn goodbye_reason(refusal: &Refusal) -> GoodbyeReason {
    if *refusal == Refusal::RootRemoved { GoodbyeReason::Shutdown } else { GoodbyeReason::Revoked }
}
