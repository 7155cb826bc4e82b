//! Following the store: its watch, and a list after a watch has ended.
//!
//! What was applied is never taken back: a list of an earlier revision is refused, unless its mesh has a later
//! epoch, as that of a restore has.

use std::{sync::PoisonError, time::Duration};

use cframe_store::{Batch, ReadError, Revision, WatchError};
use thiserror::Error;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{LATE, Mesh, compare::Comparison};
use crate::{
    model::{LoadError, State},
    record::ROOT,
};

/// The pause before a lost watch is begun again, doubled while the store cannot be read.
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_MOST: Duration = Duration::from_secs(2);
/// A watch is not begun again for a late write before it is so old.
const SELDOM: Duration = Duration::from_secs(1);

impl Mesh {
    /// Follows the store until cancelled: the one task that changes the state.
    pub async fn follow(&self, stop: CancellationToken) {
        let followed = async {
            let mut comparison = Comparison::new(self);
            loop {
                let end = self.follow_once(&mut comparison).await;
                tracing::warn!(reason = %end, "the store's watch is begun again");
                self.metrics.watch_restarted();
                if matches!(end, FollowError::Late) {
                    // From where it was, at the member that has taken the write.
                    continue;
                }
                self.set_trouble(|trouble| trouble.following = Some(end.to_string()));
                let mut pause = AGAIN;
                sleep(pause).await;
                while let Err(error) = self.list_again().await {
                    tracing::error!(%error, "the store");
                    self.set_trouble(|trouble| trouble.following = Some(error.to_string()));
                    pause = (pause * 2).min(AGAIN_MOST);
                    sleep(pause).await;
                }
                self.set_trouble(|trouble| trouble.following = None);
                comparison = Comparison::new(self);
            }
        };
        // Beside it: what is in memory reaches the edges also while the store does not answer.
        let announced = async {
            loop {
                self.put_off.due().await;
                self.announce_due();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = followed => {}
            () = announced => {}
        }
    }

    async fn follow_once(&self, comparison: &mut Comparison<'_>) -> FollowError {
        let from = self.read(|state| state.revision);
        let mut watch = match self.store.watch(ROOT, from).await {
            Ok(watch) => watch,
            Err(error) => return error.into(),
        };
        let begun = Instant::now();
        comparison.watched();
        loop {
            // Not again and again: a machine that is busy is no watch that is dead.
            let late = async {
                sleep_until(begun + SELDOM).await;
                let applied = self.applied.subscribe();
                let mut late = self.late.subscribe();
                // The sender is this mesh's own.
                let _ = late.wait_for(|late| *late > *applied.borrow()).await;
            };
            let step = tokio::select! {
                batch = watch.next() => batch.map_err(FollowError::from).and_then(|batch| {
                    comparison.note(&batch);
                    self.take(&batch)
                }),
                () = late => return FollowError::Late,
                step = comparison.step() => step,
            };
            if let Err(error) = step {
                return error;
            }
        }
    }

    fn take(&self, batch: &Batch) -> Result<(), FollowError> {
        let effects = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if batch.revision <= state.revision {
                return Ok(());
            }
            state.apply(batch)?
        };
        self.carry_out(&effects);
        self.applied.send_replace(batch.revision);
        Ok(())
    }

    /// After revisions were, or may have been, missed.
    async fn list_again(&self) -> Result<(), FollowError> {
        let new = self.load().await?;
        self.metrics.listed_again("error");
        self.replace(new)
    }

    pub(super) async fn load(&self) -> Result<State, FollowError> {
        let view = self.list().await?;
        // Of a large mesh it takes a while.
        let loaded = tokio::task::spawn_blocking(move || State::load(&view)).await;
        let loaded = loaded.map_err(|error| FollowError::Broken(error.to_string()))?;
        Ok(loaded?)
    }

    fn replace(&self, new: State) -> Result<(), FollowError> {
        let revision = new.revision;
        let effects = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let later = new.mesh.record.epoch > state.mesh.record.epoch;
            if new.mesh.record.epoch < state.mesh.record.epoch
                || !later && revision < state.revision
            {
                return Err(FollowError::Back { applied: state.revision, listed: revision });
            }
            state.replace(new)
        };
        self.carry_out(&effects);
        self.applied.send_replace(revision);
        Ok(())
    }
}

/// Why the store's watch is begun again.
#[derive(Debug, Error)]
pub(super) enum FollowError {
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "the store is at revision {listed}, and {applied} was seen: it has lost writes, or was restored by \
         other means than `cframe-controller restore`; nothing is taken from it"
    )]
    Back { applied: Revision, listed: Revision },
    #[error("{0} records in memory were not as in the store")]
    Different(usize),
    #[error("it has not told of a write that the store took {LATE:?} ago")]
    Late,
    #[error("a fault of this program: {0}")]
    Broken(String),
}
