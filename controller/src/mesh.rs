//! The mesh as this controller knows it: the store's content in memory, the one way to change it, and
//! what follows from a change.
//!
//! A write is decided upon the state in memory, committed with comparisons, and taken into memory when
//! the store's watch brings it, whoever wrote it. So one controller and several work alike. Decisions are
//! pure functions ([`crate::calls`]); nothing is awaited and nothing is sent under the state's lock.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use cframe_pki::{
    identity::{Label, PeerIdentity},
    verifier::{BundleError, Trust},
};
use cframe_protocol::v1::{CallError, Changed, ErrorCode, GoodbyeReason, Version};
use thiserror::Error;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    draft::Draft,
    feed::{Feed, PutOff},
    metrics::Metrics,
    model::{Effects, LoadError, State},
    record::ROOT,
    session::Registry,
    store::{CommitError, ReadError, Revision, Store, WatchError},
};

/// Writers of one namespace take turns; namespaces share this many turnstiles.
const LANES: usize = 64;
/// How often a decision is taken anew because another controller was faster.
const ATTEMPTS: usize = 16;
/// How long a write may take to come back by the watch.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause before a lost watch is begun again.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// The clock: seconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// See the [module](self).
pub struct Mesh {
    store: Arc<dyn Store>,
    state: RwLock<State>,
    /// The revision that `state` is at.
    applied: watch::Sender<Revision>,
    /// What is wrong with the store, for `status` and `/readyz`.
    trouble: Mutex<Option<String>>,
    feeds: Mutex<HashMap<Label, Arc<Feed>>>,
    /// Namespaces whose edges have been told often of late.
    put_off: PutOff,
    lanes: Vec<tokio::sync::Mutex<()>>,
    trust: Trust,
    clock: Clock,
    /// The sessions of edges.
    pub sessions: Registry,
    /// The counters.
    pub metrics: Metrics,
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
    /// Reads the whole store.
    ///
    /// # Errors
    /// If a part of it cannot be read or understood; nothing is served then.
    pub async fn open(store: Arc<dyn Store>, clock: Clock) -> Result<Self, OpenError> {
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
            trouble: Mutex::default(),
            lanes: (0..LANES).map(|_| tokio::sync::Mutex::default()).collect(),
            state: RwLock::new(state),
            trust,
            clock,
            store,
            sessions: Registry::default(),
            metrics: Metrics::default(),
        })
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

    /// Looks at the state. The closure must be quick: writers wait for it.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What handshakes are judged by; follows the store.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What is wrong with the store, if anything is.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// Takes a decision without carrying it out.
    ///
    /// # Errors
    /// Those of the decision.
    pub fn rehearse<T>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<Changed, CallError> {
        self.read(|state| {
            let (draft, _) = decide(state)?;
            Ok(Changed { version: version(state, &draft), warnings: draft.warnings })
        })
    }

    /// Takes a decision, carries it out, and answers once it is durable and in this controller's state.
    /// `lane` is what writers in each other's way have in common, such as the namespace's name.
    ///
    /// `decide` runs again if another controller changed what it looked at.
    ///
    /// # Errors
    /// Those of the decision, or why the store did not take it.
    pub async fn write<T>(
        &self,
        lane: &str,
        mut decide: impl FnMut(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<(Changed, T), CallError> {
        let _turn = self.lane(lane).lock().await;
        for _ in 0..ATTEMPTS {
            let (decided_at, draft, value) = {
                let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
                let (draft, value) = decide(&state)?;
                (state.revision, draft, value)
            };
            let Draft { txn, warnings, namespace } = draft;
            let shell = Draft { namespace, ..Draft::default() };
            if txn.ops.is_empty() {
                let version = self.read(|state| version(state, &shell));
                return Ok((Changed { version, warnings }, value));
            }
            match self.commit(txn).await {
                Ok(revision) => {
                    self.reach(revision).await?;
                    let version = self.read(|state| version(state, &shell));
                    return Ok((Changed { version, warnings }, value));
                }
                Err(CommitError::Conflict(_)) => self.reach(decided_at + 1).await?,
                Err(error) => return Err(refusal(&error)),
            }
        }
        Err(CallError::new(
            ErrorCode::Unavailable,
            format!("another writer was faster {ATTEMPTS} times in a row; try again"),
        ))
    }

    async fn commit(&self, txn: crate::store::Txn) -> Result<Revision, CommitError> {
        if txn.ops.len() > self.store.max_ops() {
            let (ops, most) = (txn.ops.len(), self.store.max_ops());
            return Err(CommitError::Full(format!("{ops} changes at once; {most} are possible")));
        }
        let begun = Instant::now();
        let result = self.store.commit(txn).await;
        self.metrics.commit(begun.elapsed(), &result);
        match &result {
            Ok(_) => self.set_trouble(None),
            Err(CommitError::Conflict(_)) => {}
            Err(error) => self.set_trouble(Some(error.to_string())),
        }
        result
    }

    /// Waits until the state has a revision.
    async fn reach(&self, revision: Revision) -> Result<(), CallError> {
        let mut applied = self.applied.subscribe();
        match timeout(PATIENCE, applied.wait_for(|at| *at >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(CallError::new(
                ErrorCode::Unavailable,
                "the store took the write and does not report it back; look whether it is there, then \
                 try again",
            )),
        }
    }

    fn lane(&self, name: &str) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let lanes = self.lanes.len() as u64;
        &self.lanes[usize::try_from(hasher.finish() % lanes).unwrap_or(0)]
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Follows the store until cancelled: the one task that changes the state.
    pub async fn follow(&self, stop: CancellationToken) {
        let followed = async {
            loop {
                let end = self.follow_once().await;
                tracing::warn!(reason = %end, "the store's watch is begun again");
                self.set_trouble(Some(end.to_string()));
                tokio::time::sleep(WATCH_AGAIN).await;
                match self.list_again().await {
                    Ok(()) => self.set_trouble(None),
                    Err(error) => {
                        tracing::error!(%error, "the store");
                        self.set_trouble(Some(error.to_string()));
                    }
                }
            }
        };
        stop.run_until_cancelled(followed).await;
    }

    async fn follow_once(&self) -> FollowError {
        let from = self.read(|state| state.revision);
        let mut watch = match self.store.watch(ROOT, from).await {
            Ok(watch) => watch,
            Err(error) => return error.into(),
        };
        loop {
            let next = tokio::select! {
                next = watch.next() => next,
                () = self.put_off.due() => {
                    self.announce_due();
                    continue;
                }
            };
            let batch = match next {
                Ok(batch) => batch,
                Err(error) => return error.into(),
            };
            let effects = {
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                match state.apply(&batch) {
                    Ok(effects) => effects,
                    Err(error) => return error.into(),
                }
            };
            self.carry_out(&effects);
            self.applied.send_replace(batch.revision);
        }
    }

    async fn list_again(&self) -> Result<(), OpenError> {
        let new = State::load(&self.store.list(ROOT).await?)?;
        let revision = new.revision;
        let effects = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.replace(new)
        };
        self.carry_out(&effects);
        self.applied.send_replace(revision);
        Ok(())
    }

    /// Trust first: nobody who is cut off gets in again while the sessions are closed.
    fn carry_out(&self, effects: &Effects) {
        if effects.trust {
            let (bundle, deny) =
                self.read(|state| (state.mesh.record.trust.clone(), state.deny_list()));
            if let Err(error) = self.trust.replace(bundle, deny) {
                tracing::error!(%error, "the stored trust bundle is not taken over");
            }
        }
        for (namespace, edge) in &effects.gone_edges {
            self.sessions.remove(namespace, edge);
        }
        if effects.trust {
            let denied = |peer: &_| self.trust.denial(peer).is_err();
            self.sessions.close_where(denied, GoodbyeReason::Revoked);
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

#[derive(Debug, Error)]
enum FollowError {
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Load(#[from] LoadError),
}

fn version(state: &State, draft: &Draft) -> Version {
    let of_namespace = draft.namespace.as_ref().and_then(|name| state.version(name));
    of_namespace.unwrap_or(Version {
        epoch: state.mesh.record.epoch,
        mesh: state.mesh.record.revision,
        namespace: 0,
    })
}

fn refusal(error: &CommitError) -> CallError {
    let code = match error {
        CommitError::Conflict(_) => ErrorCode::Conflict,
        CommitError::Full(_) => ErrorCode::StoreFull,
        CommitError::Corrupt(_) => ErrorCode::Internal,
        CommitError::Unavailable(_) => ErrorCode::Unavailable,
    };
    CallError::new(code, error.to_string())
}
