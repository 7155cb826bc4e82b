//! Writing: a decision on the state in memory, a transaction that compares what was decided on, and the wait until the
//! watch has brought it back.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use cframe_pki::{
    Serial,
    identity::{Label, Role},
};
use cframe_protocol::v1::{CallError, Changed, ErrorCode, Version};
use cframe_store::{CommitError, Op, Revision, Txn};
use tokio::time::timeout;

use super::replica::{LATE_AFTER, Replica};
use crate::{
    audit::{self, Act, Kind},
    decide::{call::Lane, draft::Draft},
    model::State,
};

/// How often a decision is repeated because another controller was faster.
const ATTEMPTS: usize = 16;
/// How long a write may take to come back by the watch.
pub(super) const WATCH_TIMEOUT: Duration = Duration::from_secs(10);

impl Replica {
    /// Decides without writing. The act's record has what would have changed.
    pub fn dry_run<T>(
        &self,
        act: &Act,
        decide: impl FnOnce(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<Changed, CallError> {
        let (changed, changes) = self.read(|state| {
            let (draft, _) = decide(state)?;
            let changes = audit::change::changes(state, &draft.txn);
            let version = version(state, draft.namespace.as_ref());
            Ok::<_, CallError>((Changed { version, warnings: draft.warnings }, changes))
        })?;
        let record = self.journal.record(act, self.now()).with_changes(changes);
        self.journal.enqueue(Kind::Allowed, act, &record);
        Ok(changed)
    }

    /// Decides, writes the change together with the act's record, and returns once it is durable and in this
    /// controller's state.
    ///
    /// `decide` runs again if another controller changed what it read. A decision to change nothing leaves no record;
    /// [`record_outcome`](Self::record_outcome) does.
    pub async fn write<T>(
        &self,
        lane: &Lane,
        act: &Act,
        decide: impl FnMut(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<(Changed, T), CallError> {
        self.write_for(lane, Some(act), decide).await
    }

    /// [`write`](Self::write) for what nobody asked for: it leaves no record.
    pub(crate) async fn write_unrecorded<T>(
        &self,
        lane: &Lane,
        decide: impl FnMut(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<(Changed, T), CallError> {
        self.write_for(lane, None, decide).await
    }

    /// Gives an act its record, unless it has one or only read.
    pub fn record_outcome(&self, act: &Act, error: Option<&CallError>) {
        let not_allowed = error.is_some_and(|error| error.code == ErrorCode::NotAllowed);
        if act.is_recorded() || act.reads_only() && !not_allowed {
            return;
        }
        let record = self.journal.record(act, self.now());
        match error {
            None => self.journal.enqueue(Kind::Allowed, act, &record),
            Some(error) => {
                self.journal.enqueue(Kind::Refused, act, &record.with_error(error));
            }
        }
    }

    /// Writes records of the audit log that belong to no change.
    pub(crate) async fn write_records(&self, ops: Vec<Op>) -> Result<(), CommitError> {
        let count = ops.len();
        self.commit(Txn { compares: Vec::new(), ops }).await?;
        self.metrics.audit("alone", count as u64);
        self.journal.count_written(count, self.retention.records);
        Ok(())
    }

    /// Writes a key that is not part of the state, to find out whether the store takes writes.
    pub(crate) async fn probe_write(&self, op: Op) {
        let _ = self.commit(Txn { compares: Vec::new(), ops: vec![op] }).await;
    }

    /// Deletes keys that are not part of the state.
    pub(crate) async fn delete_unwatched(&self, ops: Vec<Op>) -> Result<(), CommitError> {
        self.commit(Txn { compares: Vec::new(), ops }).await.map(drop)
    }

    async fn write_for<T>(
        &self,
        lane: &Lane,
        act: Option<&Act>,
        mut decide: impl FnMut(&State) -> Result<(Draft, T), CallError>,
    ) -> Result<(Changed, T), CallError> {
        let _turn = self.lane_lock(lane).lock().await;
        for _ in 0..ATTEMPTS {
            let (decided_at, draft, value, changes) = self.read(|state| {
                let (draft, value) = decide(state)?;
                debug_assert_eq!(draft.unguarded(), None, "written without a comparison");
                let changes = act.map(|_| audit::change::changes(state, &draft.txn));
                Ok::<_, CallError>((state.revision, draft, value, changes))
            })?;
            let Draft { mut txn, warnings, namespace } = draft;
            if txn.ops.is_empty() {
                let version = self.read(|state| version(state, namespace.as_ref()));
                return Ok((Changed { version, warnings }, value));
            }
            if let (Some(act), Some(changes)) = (act, changes) {
                let record = self.journal.record(act, self.now()).with_changes(changes);
                txn.ops.push(self.journal.op(&record));
            }
            match self.commit(txn).await {
                Ok(revision) => {
                    if let Some(act) = act {
                        act.set_recorded();
                        self.metrics.audit("with_change", 1);
                        self.journal.count_written(1, self.retention.records);
                    }
                    self.wait_for(revision).await?;
                    let version = self.read(|state| version(state, namespace.as_ref()));
                    return Ok((Changed { version, warnings }, value));
                }
                Err(CommitError::Conflict(_)) => self.wait_for(decided_at + 1).await?,
                Err(error) => return Err(call_error(&error)),
            }
        }
        Err(CallError::new(
            ErrorCode::Unavailable,
            format!("other writers were faster {ATTEMPTS} times in a row; try again"),
        ))
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        let started = Instant::now();
        let result = self.store.commit(txn).await;
        self.metrics.store.commit(started.elapsed(), &result);
        match &result {
            Ok(_) => self.set_problem(|problems| {
                problems.writing = None;
                problems.wrote = Some(Instant::now());
            }),
            Err(CommitError::Conflict(_) | CommitError::TooLarge(_)) => {}
            Err(error) => {
                let error = error.to_string();
                self.set_problem(|problems| problems.writing = Some(error));
            }
        }
        result
    }

    /// Waits until the state is at a revision.
    async fn wait_for(&self, revision: Revision) -> Result<(), CallError> {
        let mut applied = self.following.applied.subscribe();
        if timeout(LATE_AFTER, applied.wait_for(|at| *at >= revision)).await.is_err() {
            self.following.late.send_if_modified(|late| {
                let later = revision > *late;
                *late = revision.max(*late);
                later
            });
        }
        match timeout(WATCH_TIMEOUT, applied.wait_for(|at| *at >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(CallError::new(
                ErrorCode::Unavailable,
                "the store took the write and does not report it back; check whether it is there, then try again",
            )),
        }
    }

    fn lane_lock(&self, lane: &Lane) -> &tokio::sync::Mutex<()> {
        let resolved = match lane {
            Lane::HolderOf(serial) => Some(self.read(|state| lane_of_holder(state, serial))),
            Lane::Mesh
            | Lane::Namespace(_)
            | Lane::Token(_)
            | Lane::Admin(_)
            | Lane::Controller(_) => None,
        };
        let mut hasher = DefaultHasher::new();
        resolved.as_ref().unwrap_or(lane).hash(&mut hasher);
        let locks = self.lanes.len() as u64;
        &self.lanes[usize::try_from(hasher.finish() % locks).unwrap_or(0)]
    }
}

fn lane_of_holder(state: &State, serial: &Serial) -> Lane {
    let holder = state.certs.get(serial).map(|cert| &cert.record.id.role);
    holder.and_then(Role::namespace).map_or(Lane::Mesh, |name| Lane::Namespace(name.clone()))
}

fn version(state: &State, namespace: Option<&Label>) -> Version {
    let of_namespace = namespace.and_then(|name| state.version(name));
    of_namespace.unwrap_or(Version {
        epoch: state.mesh.record.epoch,
        mesh: state.mesh.record.revision,
        namespace: 0,
    })
}

fn call_error(error: &CommitError) -> CallError {
    let code = match error {
        CommitError::Conflict(_) => ErrorCode::Conflict,
        CommitError::Full(_) => ErrorCode::StoreFull,
        CommitError::TooLarge(_) => ErrorCode::Invalid,
        CommitError::Corrupt(_) => ErrorCode::Internal,
        CommitError::Unavailable(_) => ErrorCode::Unavailable,
    };
    CallError::new(code, error.to_string())
}
