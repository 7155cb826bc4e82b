//! Which edges have a session with this controller, and what is known of those that had.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cframe_pki::{identity::Label, verifier::PeerIdentity};
use cframe_protocol::v1::{GoodbyeReason, LinkReport, Report, Version};
use tokio::sync::{mpsc, watch};

/// Orders that wait for a session: one of a kind is enough.
const ORDERS: usize = 4;

/// All sessions. The lock is held for look-ups and never across an await.
#[derive(Debug)]
pub struct Registry {
    edges: Mutex<Edges>,
    /// Counts what a waiting call looks at: acknowledgements, arrivals, departures.
    progress: watch::Sender<u64>,
    next: std::sync::atomic::AtomicU64,
}

/// By namespace and name.
#[derive(Debug, Default)]
struct Edges {
    spaces: HashMap<Label, HashMap<Label, Edge>>,
    /// Those with a session.
    sessions: usize,
}

/// What is known of the edges of a namespace.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a>(Option<&'a HashMap<Label, Edge>>);

impl<'a> Known<'a> {
    /// What is known of one of them.
    pub fn seen(self, name: &Label) -> Option<&'a Seen> {
        self.0?.get(name).map(|edge| &edge.seen)
    }
}

#[derive(Debug)]
struct Edge {
    session: Option<Handle>,
    seen: Seen,
}

#[derive(Debug)]
struct Handle {
    number: u64,
    peer: PeerIdentity,
    orders: mpsc::Sender<Order>,
    end: watch::Sender<Option<GoodbyeReason>>,
}

/// What a session is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Have the edge renew its certificate.
    RenewNow,
}

/// What is known of an edge that has, or had, a session here.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Whether it has one now.
    pub online: bool,
    /// Since when, in Unix seconds.
    pub since: u64,
    /// The edge's software.
    pub software: String,
    /// Where it came from.
    pub address: SocketAddr,
    /// What it has applied.
    pub applied: Option<Version>,
    /// Its links, as last reported; none without a session.
    pub links: Vec<LinkReport>,
}

/// A session's place in the registry; it is given up when this is dropped.
pub struct Entry<'a> {
    registry: &'a Registry,
    key: (Label, Label),
    number: u64,
    now: crate::mesh::Clock,
    /// What the session is asked to do.
    pub orders: mpsc::Receiver<Order>,
    /// Why it is to end.
    pub end: watch::Receiver<Option<GoodbyeReason>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            edges: Mutex::default(),
            progress: watch::channel(0).0,
            next: std::sync::atomic::AtomicU64::new(1),
        }
    }
}

impl Registry {
    /// Takes a session in. One that the edge has already is told that it is replaced.
    pub fn enter(
        &self,
        key: (Label, Label),
        peer: PeerIdentity,
        seen: Seen,
        now: crate::mesh::Clock,
    ) -> Entry<'_> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (orders, to_do) = mpsc::channel(ORDERS);
        let (end, why) = watch::channel(None);
        let handle = Handle { number, peer, orders, end };
        let before = self.lock().insert(&key, Edge { session: Some(handle), seen });
        if let Some(Handle { end, .. }) = before {
            finish(&end, GoodbyeReason::Replaced);
        }
        self.tick();
        Entry { registry: self, key, number, now, orders: to_do, end: why }
    }

    /// Forgets an edge that is gone, and ends its session.
    pub fn remove(&self, namespace: &Label, edge: &Label) {
        let gone = self.lock().remove(namespace, edge);
        if let Some(Handle { end, .. }) = gone {
            finish(&end, GoodbyeReason::Removed);
        }
        self.tick();
    }

    /// Ends the sessions of those peers for which there is a reason.
    pub fn close_where(&self, why: impl Fn(&PeerIdentity) -> Option<GoodbyeReason>) {
        for edge in self.lock().spaces.values().flat_map(HashMap::values) {
            let Some(session) = &edge.session else { continue };
            if let Some(reason) = why(&session.peer) {
                finish(&session.end, reason);
            }
        }
    }

    /// Gives an edge's session an order; false if it has none here.
    pub fn order(&self, namespace: &Label, edge: &Label, order: Order) -> bool {
        let edges = self.lock();
        let session = edges.get(namespace, edge).and_then(|edge| edge.session.as_ref());
        // A full queue holds the same order already.
        session.is_some_and(|session| {
            !matches!(session.orders.try_send(order), Err(mpsc::error::TrySendError::Closed(_)))
        })
    }

    /// Looks at what is known of a namespace's edges, for as long as it takes.
    pub fn look<T>(&self, namespace: &Label, with: impl FnOnce(Known<'_>) -> T) -> T {
        with(Known(self.lock().spaces.get(namespace)))
    }

    /// A namespace's edges that have a session, or had one, each with what is known of it but for its links.
    pub fn of(&self, namespace: &Label) -> Vec<(Label, Seen)> {
        let edges = self.lock();
        let of = edges.spaces.get(namespace).into_iter().flatten();
        of.map(|(name, edge)| {
            let Seen { online, since, software, address, applied, links: _ } = &edge.seen;
            let (software, links) = (software.clone(), Vec::new());
            let (online, since, address, applied) = (*online, *since, *address, *applied);
            (name.clone(), Seen { online, since, software, address, applied, links })
        })
        .collect()
    }

    /// All that is known of the edges that are wanted, each as it is to be shown.
    pub fn all<T>(
        &self,
        wanted: impl Fn(&Label, &Label) -> bool,
        show: impl Fn(&Label, &Label, &Seen) -> T,
    ) -> Vec<T> {
        let edges = self.lock();
        let all = edges.spaces.iter().flat_map(|(space, of)| of.iter().map(move |at| (space, at)));
        let of = all.filter(|(space, (name, _))| wanted(space, name));
        of.map(|(space, (name, edge))| show(space, name, &edge.seen)).collect()
    }

    /// The number of sessions.
    pub fn count(&self) -> usize {
        self.lock().sessions
    }

    /// Word of anything that [`of`](Self::of) shows.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    fn tick(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Edges> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Edges {
    fn get(&self, namespace: &Label, name: &Label) -> Option<&Edge> {
        self.spaces.get(namespace)?.get(name)
    }

    /// Puts an edge with a session in; answers with the session that it had.
    fn insert(&mut self, (namespace, name): &(Label, Label), edge: Edge) -> Option<Handle> {
        let space = self.spaces.entry(namespace.clone()).or_default();
        let before = space.insert(name.clone(), edge).and_then(|edge| edge.session);
        self.sessions += usize::from(before.is_none());
        before
    }

    /// Takes an edge out; answers with the session that it had.
    fn remove(&mut self, namespace: &Label, name: &Label) -> Option<Handle> {
        let space = self.spaces.get_mut(namespace)?;
        let before = space.remove(name).and_then(|edge| edge.session);
        if space.is_empty() {
            self.spaces.remove(namespace);
        }
        self.sessions -= usize::from(before.is_some());
        before
    }
}

impl Entry<'_> {
    /// The edge has applied a version.
    pub fn applied(&self, version: Version) {
        self.update(|seen| seen.applied = Some(version));
        self.registry.tick();
    }

    /// The edge has reported.
    pub fn reported(&self, report: Report) {
        self.update(|seen| seen.links = report.links);
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        if let Some(edge) = self.own(&mut self.registry.lock()) {
            change(&mut edge.seen);
        }
    }

    /// Its edge, unless that has another session by now or is gone.
    fn own<'e>(&self, edges: &'e mut Edges) -> Option<&'e mut Edge> {
        let edge = edges.spaces.get_mut(&self.key.0)?.get_mut(&self.key.1)?;
        self.owns(edge).then_some(edge)
    }

    fn owns(&self, edge: &Edge) -> bool {
        edge.session.as_ref().is_some_and(|session| session.number == self.number)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let now = (self.now)();
        let mut edges = self.registry.lock();
        if let Some(edge) = self.own(&mut edges) {
            edge.session = None;
            edge.seen.online = false;
            // What was true of its links is not known to be so any more.
            edge.seen.links = Vec::new();
            edge.seen.since = now;
            edges.sessions -= 1;
        }
        drop(edges);
        self.registry.tick();
    }
}

/// The first reason stands.
fn finish(end: &watch::Sender<Option<GoodbyeReason>>, reason: GoodbyeReason) {
    end.send_if_modified(|why| {
        let first = why.is_none();
        if first {
            *why = Some(reason);
        }
        first
    });
}
