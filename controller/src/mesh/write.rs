//! Writing: a decision upon the state in memory, a transaction that compares what was decided upon, and the wait for
//! the watch to bring it back.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use cframe_protocol::v1::{CallError, Changed, ErrorCode, Version};
use cframe_store::{CommitError, Op, Revision, Txn};
use tokio::time::timeout;

use super::{LATE, Mesh};
use crate::{
    audit::{self, Act, journal::Kind},
    draft::Draft,
    model::State,
};

/// How often a decision is taken anew because another controller was faster.
const ATTEMPTS: usize = 16;
/// How long a write may take to come back by the watch.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

impl Mesh {
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
            let (decided_at, draft, value, changes) = self.read(|state| {
                let (draft, value) = decide(state)?;
                debug_assert_eq!(draft.unguarded(), None, "written without a look");
                let changes = act.map(|_| audit::change::changes(state, &draft.txn));
                Ok::<_, CallError>((state.revision, draft, value, changes))
            })?;
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
