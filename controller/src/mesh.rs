//! The mesh as this controller knows it: the store's content in memory, the one way to change it, and
//! what follows from a change.
//!
//! A write is decided upon the state in memory, committed with comparisons and its record of the audit log, and taken
//! into memory when the store's watch brings it, whoever wrote it. So one controller and several work alike. Decisions are
//! pure functions ([`crate::calls`]); nothing is awaited and nothing is sent under the state's lock.

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

use crate::{
    audit::{Journal, Keep},
    feed::{Feed, PutOff},
    metrics::Metrics,
    model::{Effects, LoadError, State},
    record::ROOT,
    session::{Registry, goodbye},
};

mod compare;
mod follow;
#[cfg(test)]
mod tests;
mod write;

/// Writers of one namespace take turns; namespaces share this many turnstiles.
const LANES: usize = 64;
/// After this long the watch is begun again for it: the store has taken the write, so another member may tell.
const LATE: Duration = Duration::from_millis(200);
/// How often the state in memory is compared with the store.
const COMPARE: Duration = Duration::from_secs(300);

/// The clock: seconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// See the [module](self).
pub struct Mesh {
    store: Arc<dyn Store>,
    state: RwLock<State>,
    /// The revision that `state` is at.
    applied: watch::Sender<Revision>,
    /// Word of a write that has not come back for [`LATE`].
    late: watch::Sender<Revision>,
    /// What is wrong with the store, for `status` and `/readyz`.
    trouble: Mutex<Trouble>,
    feeds: Mutex<HashMap<Label, Arc<Feed>>>,
    /// Namespaces whose edges have been told often of late.
    put_off: PutOff,
    lanes: Vec<tokio::sync::Mutex<()>>,
    trust: Trust,
    /// Word of every replacement of it.
    judged: watch::Sender<()>,
    clock: Clock,
    compare: Duration,
    /// How far memory may be behind a list.
    grace: Duration,
    journal: Journal,
    keep: Keep,
    /// The sessions of edges.
    pub sessions: Registry,
    /// The counters.
    pub metrics: Metrics,
}

/// What is wrong with the store: a write that goes well says nothing of the watch.
#[derive(Debug, Default)]
struct Trouble {
    writing: Option<String>,
    following: Option<String>,
}

/// Why a mesh cannot be served.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What is in it cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its trust bundle cannot be used.
    #[error(transparent)]
    Trust(#[from] BundleError),
}

impl Mesh {
    /// Reads the whole store, for a controller, whose records of the audit log are kept within `keep`.
    ///
    /// # Errors
    /// If a part of it cannot be read or understood; nothing is served then.
    pub async fn open(
        store: Arc<dyn Store>,
        clock: Clock,
        controller: Label,
        keep: Keep,
    ) -> Result<Self, OpenError> {
        let state = State::load(&store.list(ROOT).await?)?;
        let mesh = &state.mesh.record;
        let trust = Trust::new(mesh.name.clone(), mesh.trust.clone(), state.deny_list())?;
        let feeds = state
            .namespaces
            .keys()
            .filter_map(|name| Some((name.clone(), Arc::new(Feed::new(state.version(name)?)))));
        Ok(Self {
            feeds: Mutex::new(feeds.collect()),
            put_off: PutOff::default(),
            applied: watch::channel(state.revision).0,
            late: watch::channel(0).0,
            trouble: Mutex::default(),
            lanes: (0..LANES).map(|_| tokio::sync::Mutex::default()).collect(),
            state: RwLock::new(state),
            trust,
            judged: watch::channel(()).0,
            clock,
            compare: COMPARE,
            grace: compare::GRACE,
            journal: Journal::new(controller),
            keep,
            store,
            sessions: Registry::default(),
            metrics: Metrics::default(),
        })
    }

    /// The same, comparing the state in memory with the store at other times than every five minutes.
    pub fn comparing_every(mut self, period: Duration) -> Self {
        self.compare = period;
        self
    }

    /// The time in Unix seconds.
    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Ends when a peer's certificate does, of which the handshake has just been judged. By the monotonic
    /// clock, so that one that is set later neither ends nor prolongs a connection.
    pub fn expiry(&self, peer: &PeerIdentity) -> tokio::time::Sleep {
        tokio::time::sleep(Duration::from_secs(peer.not_after.saturating_sub(self.now())))
    }

    /// The clock.
    pub fn clock(&self) -> Clock {
        Arc::clone(&self.clock)
    }

    /// Where records of the audit log go that belong to no transaction.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The bounds of the audit log.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// Looks at the state. The closure must be quick: writers wait for it.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What handshakes are judged by; follows the store.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Word of every change of trust and of the deny-list.
    pub fn judged(&self) -> watch::Receiver<()> {
        self.judged.subscribe()
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What is wrong with the store, if anything is.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.following.as_ref().or(trouble.writing.as_ref()).cloned()
    }

    /// Where a namespace's sessions hear of versions.
    pub fn feed(&self, namespace: &Label) -> Option<Arc<Feed>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner).get(namespace).cloned()
    }

    /// The encoded way from `have` to the newest state; `None` if the namespace is gone.
    pub fn frames(
        &self,
        feed: &Feed,
        namespace: &Label,
        have: Option<Version>,
    ) -> Option<Arc<crate::feed::Frames>> {
        match feed.frames(&self.state, namespace, have) {
            Ok(frames) => frames,
            Err(error) => {
                tracing::error!(%namespace, %error, "desired state cannot be sent");
                None
            }
        }
    }

    async fn list(&self) -> Result<View, ReadError> {
        let begun = Instant::now();
        let result = self.store.list(ROOT).await;
        self.metrics.list(begun.elapsed(), &result);
        result
    }

    fn set_trouble(&self, set: impl FnOnce(&mut Trouble)) {
        set(&mut self.trouble.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Trust first: nobody who is cut off gets in again while the sessions are closed.
    fn carry_out(&self, effects: &Effects) {
        if effects.trust {
            let (bundle, deny) =
                self.read(|state| (state.mesh.record.trust.clone(), state.deny_list()));
            if let Err(error) = self.trust.replace(bundle, deny) {
                tracing::error!(%error, "the stored trust bundle is not taken over");
            }
            self.judged.send_replace(());
        }
        for (namespace, edge) in &effects.gone_edges {
            self.sessions.remove(namespace, edge);
        }
        if effects.trust {
            let why = |peer: &_| self.trust.denial(peer).err().map(|refusal| goodbye(&refusal));
            self.sessions.close_where(why);
        }
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &effects.gone {
            feeds.remove(name);
        }
        let now = Instant::now();
        for name in &effects.updated {
            let Some(version) = self.read(|state| state.version(name)) else { continue };
            match feeds.get(name) {
                // Who is cut off is so at once.
                Some(feed) if effects.trust => feed.announce(version),
                Some(feed) => {
                    if let Some(due) = feed.offer(version, now) {
                        self.put_off.add(name, due);
                    }
                }
                None => {
                    feeds.insert(name.clone(), Arc::new(Feed::new(version)));
                }
            }
        }
    }

    /// Announces what was put off until now, at its newest version.
    fn announce_due(&self) {
        for name in self.put_off.take(Instant::now()) {
            let version = self.read(|state| state.version(&name));
            if let (Some(feed), Some(version)) = (self.feed(&name), version) {
                feed.announce(version);
            }
        }
    }
}
