//! Following the store: by its watch, and by a list after the watch has ended.
//!
//! What was applied is never taken back: a list of an earlier revision is refused, unless its mesh has a later epoch,
//! which a restore gives it.

use std::{sync::PoisonError, time::Duration};

use cframe_store::Batch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Replica, compare::Comparison, follow_error::FollowError};
use crate::model::{State, record::ROOT};

/// Before a lost watch is started again; doubled while the store cannot be read.
const RETRY_DELAY: Duration = Duration::from_millis(250);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);
/// A late write restarts a watch only after the watch has run this long: on a busy machine a watch can be slow.
const MIN_WATCH_TIME: Duration = Duration::from_secs(1);

impl Replica {
    /// Follows the store until cancelled. Only this task changes the state.
    pub async fn follow(&self, stop: CancellationToken) {
        let following = async {
            let mut comparison = Comparison::new(self);
            loop {
                let end = self.follow_once(&mut comparison).await;
                tracing::warn!(reason = %end, "the store's watch is started again");
                self.metrics.store.watch_restarted();
                if matches!(end, FollowError::Late) {
                    // Continues at the same revision, at the member that has taken the write.
                    continue;
                }
                self.set_problem(|problems| problems.following = Some(end.to_string()));
                let mut delay = RETRY_DELAY;
                sleep(delay).await;
                while let Err(error) = self.list_again().await {
                    tracing::error!(%error, "the store cannot be read");
                    self.set_problem(|problems| problems.following = Some(error.to_string()));
                    delay = (delay * 2).min(MAX_RETRY_DELAY);
                    sleep(delay).await;
                }
                self.set_problem(|problems| problems.following = None);
                comparison = Comparison::new(self);
            }
        };
        // At the same time: what is in memory reaches the edges also while the store does not answer.
        let announcing = async {
            loop {
                self.feeds.deferred.due().await;
                self.announce_due();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = following => {}
            () = announcing => {}
        }
    }

    async fn follow_once(&self, comparison: &mut Comparison<'_>) -> FollowError {
        let from = self.read(|state| state.revision);
        let mut watch = match self.store.watch(ROOT, from).await {
            Ok(watch) => watch,
            Err(error) => return error.into(),
        };
        let started = Instant::now();
        comparison.watch_started();
        loop {
            let late = async {
                sleep_until(started + MIN_WATCH_TIME).await;
                let applied = self.following.applied.subscribe();
                let mut late = self.following.late.subscribe();
                // It cannot fail: this struct has the sender.
                let _ = late.wait_for(|late| *late > *applied.borrow()).await;
            };
            let step = tokio::select! {
                batch = watch.next() => batch.map_err(FollowError::from).and_then(|batch| {
                    comparison.add_batch(&batch);
                    self.apply_batch(&batch)
                }),
                () = late => return FollowError::Late,
                step = comparison.step() => step,
            };
            if let Err(error) = step {
                return error;
            }
        }
    }

    fn apply_batch(&self, batch: &Batch) -> Result<(), FollowError> {
        let effects = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if batch.revision <= state.revision {
                return Ok(());
            }
            state.apply(batch)?
        };
        self.apply_effects(&effects);
        self.following.applied.send_replace(batch.revision);
        Ok(())
    }

    /// After revisions were missed, or may have been.
    async fn list_again(&self) -> Result<(), FollowError> {
        let new = self.load().await?;
        self.metrics.store.listed_again("error");
        self.replace_state(new)
    }

    fn replace_state(&self, new: State) -> Result<(), FollowError> {
        let revision = new.revision;
        let effects = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let later_epoch = new.mesh.record.epoch > state.mesh.record.epoch;
            if new.mesh.record.epoch < state.mesh.record.epoch
                || !later_epoch && revision < state.revision
            {
                return Err(FollowError::Back { applied: state.revision, listed: revision });
            }
            state.replace(new)
        };
        self.apply_effects(&effects);
        self.following.applied.send_replace(revision);
        Ok(())
    }
}
