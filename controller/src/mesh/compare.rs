//! Compares memory with the store from time to time. They are equal, unless this program or the store has a bug.

use std::{collections::BTreeMap, time::Duration};

use cframe_store::{Batch, Boxed, Revision};
use tokio::time::{Instant, sleep_until};

use super::{Replica, follow_error::FollowError};
use crate::model::{State, record::Key};

/// Time between two checks while memory is still behind the list.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Keys in a log line.
const MAX_LOGGED_KEYS: usize = 5;

/// The watch goes on meanwhile, and its batches are [added](Self::add_batch).
pub(super) struct Comparison<'a> {
    replica: &'a Replica,
    stage: Stage<'a>,
    /// What the watch reported since the list was started: the last revision of each key.
    changed: BTreeMap<String, Revision>,
}

enum Stage<'a> {
    Idle {
        until: Instant,
    },
    Listing {
        applied: Revision,
        list: Boxed<'a, Result<State, FollowError>>,
    },
    /// Memory may not be as far as this list yet.
    Comparing {
        listed: Box<State>,
        next: Instant,
        deadline: Instant,
    },
}

impl<'a> Comparison<'a> {
    pub(super) fn new(replica: &'a Replica) -> Self {
        Self { replica, stage: idle(replica), changed: BTreeMap::new() }
    }

    /// A new watch gets the whole time to bring memory as far as the list.
    pub(super) fn watch_started(&mut self) {
        if let Stage::Comparing { deadline, .. } = &mut self.stage {
            *deadline = Instant::now() + self.replica.following.grace;
        }
    }

    pub(super) fn add_batch(&mut self, batch: &Batch) {
        if !matches!(self.stage, Stage::Idle { .. }) {
            let changes = batch.changes.iter();
            self.changed.extend(changes.map(|(key, _)| (key.clone(), batch.revision)));
        }
    }

    /// Runs until one more stage has ended. Cancel-safe.
    pub(super) async fn step(&mut self) -> Result<(), FollowError> {
        match &mut self.stage {
            Stage::Idle { until } => {
                sleep_until(*until).await;
                self.changed = BTreeMap::new();
                let applied = self.replica.read(|state| state.revision);
                self.stage = Stage::Listing { applied, list: Box::pin(self.replica.load()) };
            }
            Stage::Listing { applied, list } => {
                let (listed, applied) = (list.await, *applied);
                let listed = match listed {
                    // The watch may still be fine.
                    Err(FollowError::Read(error)) => {
                        tracing::warn!(%error, "memory was not compared with the store");
                        self.stage = idle(self.replica);
                        return Ok(());
                    }
                    listed => listed?,
                };
                self.replica.metrics.store.listed_again("timer");
                if listed.revision < applied {
                    return Err(FollowError::Back { applied, listed: listed.revision });
                }
                let (now, listed) = (Instant::now(), Box::new(listed));
                let deadline = now + self.replica.following.grace;
                self.stage = Stage::Comparing { listed, next: now, deadline };
            }
            Stage::Comparing { listed, next, deadline } => {
                sleep_until(*next).await;
                let (applied, mut different) =
                    self.replica.read(|state| (state.revision, state.differences(listed)));
                // Memory may be ahead of the list.
                different.retain(|key| {
                    self.changed.get(&key.to_string()).is_none_or(|at| *at <= listed.revision)
                });
                let now = Instant::now();
                if different.is_empty() {
                    self.stage = idle(self.replica);
                } else if applied >= listed.revision || now >= *deadline {
                    let (count, listed) = (different.len(), listed.revision);
                    self.replica.metrics.store.different(count);
                    let keys = different.iter().take(MAX_LOGGED_KEYS).map(Key::to_string);
                    let keys = keys.collect::<Vec<_>>().join(", ");
                    tracing::error!(count, %keys, applied, listed, "memory differs from the store");
                    return Err(FollowError::Different(count));
                } else {
                    *next = now + CHECK_INTERVAL;
                }
            }
        }
        Ok(())
    }
}

fn idle(replica: &Replica) -> Stage<'_> {
    Stage::Idle { until: Instant::now() + replica.following.compare_interval }
}
