//! What is advertised in the file, while it is held.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::{Job, history::Newest};
use crate::{Advertisement, Boxed};

/// Keys that are held no more, for the thread to delete.
pub(super) type Dropped = Arc<Mutex<Vec<String>>>;

pub(super) struct Held {
    key: String,
    dropped: Dropped,
    /// Weak: what is advertised keeps no file open.
    jobs: mpsc::WeakSender<Job>,
    newest: watch::Receiver<Newest>,
}

impl Held {
    pub(super) fn new(
        key: String,
        dropped: Dropped,
        jobs: mpsc::WeakSender<Job>,
        newest: watch::Receiver<Newest>,
    ) -> Self {
        Self { key, dropped, jobs, newest }
    }
}

impl Advertisement for Held {
    fn lost(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            // Both an end and a sender that is gone mean that the store was closed.
            let _ = self.newest.wait_for(|newest| !newest.open).await;
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.dropped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(std::mem::take(&mut self.key));
        if let Some(jobs) = self.jobs.upgrade() {
            // A full queue is as good: the thread looks after each job.
            let _ = jobs.try_send(Job::Drop);
        }
    }
}
