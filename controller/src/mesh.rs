//! The mesh as this controller knows it: the store's content in memory, the one way to change it, and
//! what follows from a change.
//!
//! A write is decided upon the state in memory, committed with comparisons and its record of the audit log, and taken into memory when
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
use cframe_protocol::v1::{CallError, Changed, ErrorCode, Version};
use thiserror::Error;
use tokio::{sync::watch, time::timeout};

use crate::{
    audit::{self, Act, Journal, Keep, journal::Kind},
    draft::Draft,
    feed::{Feed, PutOff},
    metrics::Metrics,
    model::{Effects, LoadError, State},
    record::ROOT,
    session::{Registry, goodbye},
    store::{CommitError, Op, ReadError, Revision, Store, Txn, View},
};

mod compare;
mod follow;
#[cfg(test)]
mod tests;

/// Writers of one namespace take turns; namespaces share this many turnstiles.
const LANES: usize = 64;
/// How often a decision is taken anew because another controller was faster.
const ATTEMPTS: usize = 16;
/// How long a write may take to come back by the watch.
const PATIENCE: Duration = Duration::from_secs(10);
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

    /// Takes a decision without carrying it out. The record of it says what would have changed.
    ///
    /// # Errors
    /// Those of the decision.
    pub fn rehearse<T>(
        &self,
        act: &Act,
        decide: impl FnOnce(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<Changed, CallError> {
        let (changed, changes) = self.read(|state| {
            let (draft, _) = decide(state)?;
            let changes = audit::change::changes(state, &draft.txn);
            let version = version(state, &draft);
            Ok::<_, CallError>((Changed { version, warnings: draft.warnings }, changes))
        })?;
        let record = self.journal.record(act, self.now()).changing(changes);
        self.journal.note(Kind::Allowed, act, &record);
        Ok(changed)
    }

    /// Takes a decision, carries it out together with the record of it, and answers once it is durable and in
    /// this controller's state. `lane` is what writers in each other's way have in common, such as the
    /// namespace's name.
    ///
    /// `decide` runs again if another controller changed what it looked at. What decides to change nothing
    /// leaves no record; [`settle`](Self::settle) does.
    ///
    /// # Errors
    /// Those of the decision, or why the store did not take it.
    pub async fn write<T>(
        &self,
        lane: &str,
        act: &Act,
        decide: impl FnMut(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<(Changed, T), CallError> {
        self.write_for(lane, Some(act), decide).await
    }

    /// The same for what a controller does by itself and nobody asked for: it leaves no record.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) async fn write_unrecorded<T>(
        &self,
        lane: &str,
        decide: impl FnMut(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<(Changed, T), CallError> {
        self.write_for(lane, None, decide).await
    }

    /// Ends an act: what has no record gets one, unless it only looked.
    pub fn settle(&self, act: &Act, error: Option<&CallError>) {
        let not_allowed = error.is_some_and(|error| error.code == ErrorCode::NotAllowed);
        if act.is_recorded() || act.looks() && !not_allowed {
            return;
        }
        let record = self.journal.record(act, self.now());
        match error {
            None => self.journal.note(Kind::Allowed, act, &record),
            Some(error) => self.journal.note(Kind::Refused, act, &record.failing(error)),
        }
    }

    /// Writes records that belong to no change. Nothing of the state waits for them.
    pub(crate) async fn record_alone(&self, ops: Vec<Op>) -> Result<(), CommitError> {
        let count = ops.len();
        self.commit(Txn { compares: Vec::new(), ops }).await?;
        self.metrics.audit("alone", count as u64);
        self.journal.written(count, self.keep.records);
        Ok(())
    }

    /// Removes keys of which nothing is in the state.
    pub(crate) async fn clear(&self, ops: Vec<Op>) -> Result<(), CommitError> {
        self.commit(Txn { compares: Vec::new(), ops }).await.map(drop)
    }

    async fn write_for<T>(
        &self,
        lane: &str,
        act: Option<&Act>,
        mut decide: impl FnMut(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<(Changed, T), CallError> {
        let _turn = self.lane(lane).lock().await;
        for _ in 0..ATTEMPTS {
            let (decided_at, draft, value, changes) = {
                let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
                let (draft, value) = decide(&state)?;
                debug_assert_eq!(draft.unguarded(), None, "written without a look");
                let changes = act.map(|_| audit::change::changes(&state, &draft.txn));
                (state.revision, draft, value, changes)
            };
            let Draft { mut txn, warnings, namespace } = draft;
            let shell = Draft { namespace, ..Draft::default() };
            if txn.ops.is_empty() {
                let version = self.read(|state| version(state, &shell));
                return Ok((Changed { version, warnings }, value));
            }
            if let (Some(act), Some(changes)) = (act, changes) {
                let record = self.journal.record(act, self.now()).changing(changes);
                txn.ops.push(self.journal.write(&record));
            }
            match self.commit(txn).await {
                Ok(revision) => {
                    if let Some(act) = act {
                        act.set_recorded();
                        self.metrics.audit("with_change", 1);
                        self.journal.written(1, self.keep.records);
                    }
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

    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        let begun = Instant::now();
        let result = self.store.commit(txn).await;
        self.metrics.commit(begun.elapsed(), &result);
        match &result {
            Ok(_) => self.set_trouble(|trouble| trouble.writing = None),
            Err(CommitError::Conflict(_) | CommitError::TooLarge(_)) => {}
            Err(error) => {
                let error = error.to_string();
                self.set_trouble(|trouble| trouble.writing = Some(error));
            }
        }
        result
    }

    async fn list(&self) -> Result<View, ReadError> {
        let begun = Instant::now();
        let result = self.store.list(ROOT).await;
        self.metrics.list(begun.elapsed(), &result);
        result
    }

    /// Waits until the state has a revision.
    async fn reach(&self, revision: Revision) -> Result<(), CallError> {
        let mut applied = self.applied.subscribe();
        if timeout(LATE, applied.wait_for(|at| *at >= revision)).await.is_err() {
            self.late.send_if_modified(|late| {
                let later = revision > *late;
                *late = revision.max(*late);
                later
            });
        }
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
        CommitError::TooLarge(_) => ErrorCode::Invalid,
        CommitError::Corrupt(_) => ErrorCode::Internal,
        CommitError::Unavailable(_) => ErrorCode::Unavailable,
    };
    CallError::new(code, error.to_string())
}
