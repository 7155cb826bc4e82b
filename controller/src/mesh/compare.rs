//! A comparison of memory with the store from time to time. They are the same, unless this program or the
//! store has a fault.

use std::{collections::BTreeMap, time::Duration};

use cframe_store::{Batch, Boxed, Revision};
use tokio::time::{Instant, sleep_until};

use super::{Mesh, follow::FollowError};
use crate::{model::State, record::Key};

/// How often memory is looked at that the watch has not brought as far as the list.
const LOOK: Duration = Duration::from_millis(100);
/// And for how long. The watch may never bring it there, for etcd counts what is not watched too; and before, a
/// watch that is dead has ended.
pub(super) const GRACE: Duration = Duration::from_secs(8);
/// The keys that a log line names.
const NAMED: usize = 5;

/// See the [module](self). The watch goes on beside it: what it tells of meanwhile is [noted](Self::note).
pub(super) struct Comparison<'a> {
    mesh: &'a Mesh,
    stage: Stage<'a>,
    /// What the watch has told of since a list was asked for: the last revision of each key.
    told: BTreeMap<String, Revision>,
}

enum Stage<'a> {
    /// Until the next list.
    Resting { until: Instant },
    /// A list was asked for.
    Listing { applied: Revision, list: Boxed<'a, Result<State, FollowError>> },
    /// Memory may have to come as far as this list yet.
    Settling { listed: Box<State>, look: Instant, deadline: Instant },
}

impl<'a> Comparison<'a> {
    pub(super) fn new(mesh: &'a Mesh) -> Self {
        Self { mesh, stage: rest(mesh), told: BTreeMap::new() }
    }

    /// A watch begins: it has all the time again to bring memory as far as the list.
    pub(super) fn watched(&mut self) {
        if let Stage::Settling { deadline, .. } = &mut self.stage {
            *deadline = Instant::now() + self.mesh.grace;
        }
    }

    /// Hears of what the watch tells of.
    pub(super) fn note(&mut self, batch: &Batch) {
        if !matches!(self.stage, Stage::Resting { .. }) {
            let changes = batch.changes.iter();
            self.told.extend(changes.map(|(key, _)| (key.clone(), batch.revision)));
        }
    }

    /// Goes on until one more stage has ended. If it is dropped before, nothing is lost.
    ///
    /// # Errors
    /// If memory is not as the store, or the store cannot be read.
    pub(super) async fn step(&mut self) -> Result<(), FollowError> {
        match &mut self.stage {
            Stage::Resting { until } => {
                sleep_until(*until).await;
                self.told = BTreeMap::new();
                let applied = self.mesh.read(|state| state.revision);
                self.stage = Stage::Listing { applied, list: Box::pin(self.mesh.load()) };
            }
            Stage::Listing { applied, list } => {
                let (listed, applied) = (list.await, *applied);
                let listed = match listed {
                    // The watch is none the worse for it.
                    Err(FollowError::Read(error)) => {
                        tracing::warn!(%error, "memory is not compared with the store this time");
                        self.stage = rest(self.mesh);
                        return Ok(());
                    }
                    listed => listed?,
                };
                self.mesh.metrics.listed_again("timer");
                if listed.revision < applied {
                    return Err(FollowError::Back { applied, listed: listed.revision });
                }
                let (now, listed) = (Instant::now(), Box::new(listed));
                self.stage = Stage::Settling { listed, look: now, deadline: now + self.mesh.grace };
            }
            Stage::Settling { listed, look, deadline } => {
                sleep_until(*look).await;
                let (came, mut different) =
                    self.mesh.read(|state| (state.revision, state.differences(listed)));
                // Memory may be ahead of the list.
                different.retain(|key| {
                    self.told.get(&key.to_string()).is_none_or(|at| *at <= listed.revision)
                });
                let now = Instant::now();
                if different.is_empty() {
                    self.stage = rest(self.mesh);
                } else if came >= listed.revision || now >= *deadline {
                    let (count, at) = (different.len(), listed.revision);
                    self.mesh.metrics.different(count);
                    let keys: Vec<_> = different.iter().take(NAMED).map(Key::to_string).collect();
                    let keys = keys.join(", ");
                    tracing::error!(count, %keys, applied = came, listed = at, "memory is not as the store");
                    return Err(FollowError::Different(count));
                } else {
                    *look = now + LOOK;
                }
            }
        }
        Ok(())
    }
}

fn rest(mesh: &Mesh) -> Stage<'_> {
    Stage::Resting { until: Instant::now() + mesh.compare }
}
