//! This controller's copy of the mesh: the store's content in memory, the one way to write, and what follows from a
//! change for sessions and edges.
//!
//! A write is decided on the state in memory and committed with comparisons and its record of the audit log. It comes
//! into memory by the store's watch, as the writes of other controllers do. Decisions are pure functions
//! ([`crate::decide`]); nothing is awaited and nothing is sent under the state's lock.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use cframe_pki::{
    identity::{Label, PeerIdentity},
    verifier::{BundleError, Trust},
};
use cframe_protocol::v1::Version;
use cframe_store::{ReadError, Revision, Store, View};
use thiserror::Error;
use tokio::sync::watch;

use super::{
    feed::{DeferredUpdates, Feed, Frames},
    follow_error::FollowError,
};
use crate::{
    audit::{Journal, Retention},
    clock::Clock,
    metrics::Metrics,
    model::{Effects, LoadError, State, record::ROOT},
    sessions::{Registry, goodbye_reason},
};

/// Locks that the [lanes](crate::decide::call::Lane) share.
const LANE_LOCKS: usize = 64;
/// How long the watch may take to deliver a write that the store has accepted. After that the watch is restarted, at
/// another member of etcd if there is one.
pub(super) const LATE_AFTER: Duration = Duration::from_millis(200);
const COMPARE_INTERVAL: Duration = Duration::from_secs(300);
/// How long a difference between memory and a list may last before it counts as an error. Waiting for the list's revision
/// is not enough: etcd also counts writes that are not watched, so memory may never reach it. A dead watch is noticed
/// earlier.
const COMPARE_GRACE: Duration = Duration::from_secs(8);

/// This controller's copy of the mesh.
pub struct Replica {
    pub(super) store: Arc<dyn Store>,
    pub(super) state: RwLock<State>,
    pub(super) following: Following,
    pub(super) feeds: Feeds,
    pub(super) lanes: Vec<tokio::sync::Mutex<()>>,
    trust: Trust,
    trust_changed: watch::Sender<()>,
    clock: Clock,
    pub(super) journal: Journal,
    pub(super) retention: Retention,
    /// The sessions of edges.
    pub sessions: Registry,
    pub metrics: Metrics,
}

/// How far the state in memory follows the store.
pub(super) struct Following {
    /// The revision that the state is at.
    pub(super) applied: watch::Sender<Revision>,
    /// A write that has not come back for [`LATE_AFTER`].
    pub(super) late: watch::Sender<Revision>,
    pub(super) compare_interval: Duration,
    pub(super) grace: Duration,
    problems: Mutex<StoreProblems>,
}

/// What is wrong with the store. A write that succeeds says nothing about the watch.
#[derive(Debug, Default)]
pub(super) struct StoreProblems {
    pub(super) writing: Option<String>,
    pub(super) following: Option<String>,
    /// The last write that succeeded.
    pub(super) wrote: Option<Instant>,
}

/// What the sessions of each namespace send.
#[derive(Default)]
pub(super) struct Feeds {
    by_namespace: Mutex<HashMap<Label, Arc<Feed>>>,
    pub(super) deferred: DeferredUpdates,
}

/// Why the store's content cannot be served.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Trust(#[from] BundleError),
}

impl Replica {
    /// Reads the whole store. `controller` and `retention` are for the audit log.
    pub async fn open(
        store: Arc<dyn Store>,
        clock: Clock,
        controller: Label,
        retention: Retention,
    ) -> Result<Self, OpenError> {
        let state = State::load(&store.list(ROOT).await?)?;
        let mesh = &state.mesh.record;
        let trust = Trust::new(mesh.name.clone(), mesh.trust.clone(), state.deny_list())?;
        let names = state.namespaces.keys();
        let feeds = names
            .filter_map(|name| Some((name.clone(), Arc::new(Feed::new(state.version(name)?)))));
        let feeds = Feeds { by_namespace: Mutex::new(feeds.collect()), ..Feeds::default() };
        let following = Following {
            applied: watch::channel(state.revision).0,
            late: watch::channel(0).0,
            compare_interval: COMPARE_INTERVAL,
            grace: COMPARE_GRACE,
            problems: Mutex::default(),
        };
        Ok(Self {
            following,
            feeds,
            lanes: (0..LANE_LOCKS).map(|_| tokio::sync::Mutex::default()).collect(),
            state: RwLock::new(state),
            trust,
            trust_changed: watch::channel(()).0,
            clock,
            journal: Journal::new(controller),
            retention,
            store,
            sessions: Registry::default(),
            metrics: Metrics::default(),
        })
    }

    /// Compares the state in memory with the store at this interval.
    pub fn comparing_every(mut self, interval: Duration) -> Self {
        self.following.compare_interval = interval;
        self
    }

    /// Unix seconds.
    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    pub fn clock(&self) -> Clock {
        Arc::clone(&self.clock)
    }

    /// Ends when a peer's certificate expires. It counts by the monotonic clock: a clock that is set later neither
    /// shortens nor extends the connection.
    pub fn expiry(&self, peer: &PeerIdentity) -> tokio::time::Sleep {
        tokio::time::sleep(Duration::from_secs(peer.not_after.saturating_sub(self.now())))
    }

    /// For records of the audit log that belong to no transaction.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// Reads the state. The closure must be quick: writers wait for it.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What handshakes are checked against. It follows the store.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Changes whenever the trust bundle or the deny-list does, or a controller is removed.
    pub fn trust_changed(&self) -> watch::Receiver<()> {
        self.trust_changed.subscribe()
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What is wrong with the store, if anything is.
    pub fn store_problem(&self) -> Option<String> {
        let known = {
            let problems = self.following.problems.lock().unwrap_or_else(PoisonError::into_inner);
            problems.following.as_ref().or(problems.writing.as_ref()).cloned()
        };
        known.or_else(|| self.store.problem())
    }

    /// Whether a write succeeded within the last while, and none failed since.
    pub(crate) fn wrote_within(&self, time: Duration) -> bool {
        let problems = self.following.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.writing.is_none() && problems.wrote.is_some_and(|at| at.elapsed() < time)
    }

    pub fn feed(&self, namespace: &Label) -> Option<Arc<Feed>> {
        self.feeds.lock().get(namespace).cloned()
    }

    /// The encoded updates from `have` to the newest state; `None` if the namespace was removed.
    pub fn frames(
        &self,
        feed: &Feed,
        namespace: &Label,
        have: Option<Version>,
    ) -> Option<Arc<Frames>> {
        match feed.frames(&self.state, namespace, have) {
            Ok(frames) => frames,
            Err(error) => {
                tracing::error!(%namespace, %error, "desired state cannot be sent");
                None
            }
        }
    }

    /// Reads the whole store again.
    pub(super) async fn load(&self) -> Result<State, FollowError> {
        let started = Instant::now();
        let view: Result<View, ReadError> = self.store.list(ROOT).await;
        self.metrics.store.list(started.elapsed(), &view);
        let view = view?;
        // This takes a while for a large mesh.
        let loaded = tokio::task::spawn_blocking(move || State::load(&view)).await;
        let loaded = loaded.map_err(|error| FollowError::Bug(error.to_string()))?;
        Ok(loaded?)
    }

    pub(super) fn set_problem(&self, set: impl FnOnce(&mut StoreProblems)) {
        set(&mut self.following.problems.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Carries out what follows from a change. Trust comes first: nobody who is cut off may connect again while the
    /// sessions are closed.
    pub(super) fn apply_effects(&self, effects: &Effects) {
        if effects.trust {
            let (bundle, deny) =
                self.read(|state| (state.mesh.record.trust.clone(), state.deny_list()));
            if let Err(error) = self.trust.replace(bundle, deny) {
                tracing::error!(%error, "the stored trust bundle cannot be used");
            }
            self.trust_changed.send_replace(());
        }
        for (namespace, edge) in &effects.removed_edges {
            self.sessions.remove(namespace, edge);
        }
        if effects.trust {
            let refused = |peer: &_| self.trust.denial(peer).err();
            self.sessions.close_where(|peer| refused(peer).map(|refusal| goodbye_reason(&refusal)));
        }
        let mut feeds = self.feeds.lock();
        for name in &effects.removed {
            feeds.remove(name);
        }
        let now = Instant::now();
        for name in &effects.updated {
            let Some(version) = self.read(|state| state.version(name)) else { continue };
            match feeds.get(name) {
                // A revocation is never deferred.
                Some(feed) if effects.trust => feed.announce(version),
                Some(feed) => {
                    if let Some(due) = feed.announce_or_defer(version, now) {
                        self.feeds.deferred.add(name, due);
                    }
                }
                None => {
                    feeds.insert(name.clone(), Arc::new(Feed::new(version)));
                }
            }
        }
    }

    /// Announces the deferred updates that are due, at the newest version.
    pub(super) fn announce_due(&self) {
        for name in self.feeds.deferred.take_due(Instant::now()) {
            let version = self.read(|state| state.version(&name));
            if let (Some(feed), Some(version)) = (self.feed(&name), version) {
                feed.announce(version);
            }
        }
    }
}

impl Feeds {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Label, Arc<Feed>>> {
        self.by_namespace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
