//! The last revisions, for watches. They are in memory: only one process has the file open.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use super::CLOSED;
use crate::{Batch, Boxed, Revision, Watch, WatchError};

/// A watch that falls further behind lists again.
const MAX_REVISIONS: usize = 4096;

pub(super) struct History {
    batches: Mutex<VecDeque<Arc<Batch>>>,
    newest: watch::Sender<Newest>,
}

#[derive(Clone, Copy)]
pub(super) struct Newest {
    revision: Revision,
    pub(super) open: bool,
}

impl History {
    pub(super) fn new(revision: Revision) -> Self {
        let (newest, _) = watch::channel(Newest { revision, open: true });
        Self { batches: Mutex::default(), newest }
    }

    pub(super) fn revision(&self) -> Revision {
        self.newest.borrow().revision
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Newest> {
        self.newest.subscribe()
    }

    pub(super) fn extend(&self, batches: Vec<Arc<Batch>>) {
        let Some(revision) = batches.last().map(|batch| batch.revision) else { return };
        let mut stored = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        stored.extend(batches);
        let over = stored.len().saturating_sub(MAX_REVISIONS);
        stored.drain(..over);
        drop(stored);
        self.newest.send_modify(|newest| newest.revision = revision);
    }

    /// After an unconfirmed commit the history may lack a revision: watches must list again.
    pub(super) fn restart_at(&self, revision: Revision) {
        if revision != self.revision() {
            self.batches.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.newest.send_modify(|newest| newest.revision = revision);
        }
    }

    pub(super) fn end(&self) {
        self.newest.send_modify(|newest| newest.open = false);
    }

    /// The first revision after `at`, if it has happened.
    fn after(&self, at: Revision) -> Result<Option<Arc<Batch>>, WatchError> {
        let newest = self.revision();
        if at > newest {
            return Err(WatchError::Ended(format!(
                "revision {at} is later than the newest, {newest}"
            )));
        }
        if at == newest {
            return Ok(None);
        }
        let stored = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let index = stored.front().and_then(|first| (at + 1).checked_sub(first.revision));
        index
            .and_then(|index| stored.get(usize::try_from(index).ok()?))
            .map(|batch| Some(Arc::clone(batch)))
            .ok_or(WatchError::Compacted(at))
    }
}

pub(super) struct LogWatch {
    history: Arc<History>,
    newest: watch::Receiver<Newest>,
    prefix: String,
    at: Revision,
}

impl LogWatch {
    pub(super) fn new(history: Arc<History>, prefix: &str, from: Revision) -> Self {
        let newest = history.newest.subscribe();
        Self { history, newest, prefix: prefix.to_owned(), at: from }
    }
}

impl Watch for LogWatch {
    fn next(&mut self) -> Boxed<'_, Result<Batch, WatchError>> {
        Box::pin(async move {
            loop {
                let open = self.newest.borrow_and_update().open;
                if let Some(batch) = self.history.after(self.at)? {
                    self.at = batch.revision;
                    let changes: Vec<_> = batch
                        .changes
                        .iter()
                        .filter(|(key, _)| key.starts_with(&self.prefix))
                        .cloned()
                        .collect();
                    if !changes.is_empty() {
                        return Ok(Batch { revision: batch.revision, changes });
                    }
                    continue;
                }
                if !open || self.newest.changed().await.is_err() {
                    return Err(WatchError::Ended(CLOSED.to_owned()));
                }
            }
        })
    }
}
