//! Advertised keys of the file.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use super::{Job, history::Newest};
use crate::{Advertisement, Boxed};

/// Dropped advertisements by key and number, for the thread.
pub(super) type Dropped = Arc<Mutex<Vec<(String, u64)>>>;

pub(super) struct RedbAdvertisement {
    id: (String, u64),
    dropped: Dropped,
    /// Weak, so that it does not keep the file open.
    jobs: mpsc::WeakSender<Job>,
    newest: watch::Receiver<Newest>,
}

impl RedbAdvertisement {
    pub(super) fn new(
        id: (String, u64),
        dropped: Dropped,
        jobs: mpsc::WeakSender<Job>,
        newest: watch::Receiver<Newest>,
    ) -> Self {
        Self { id, dropped, jobs, newest }
    }
}

impl Advertisement for RedbAdvertisement {
    fn lost(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            // An error means that the store was closed too.
            let _ = self.newest.wait_for(|newest| !newest.open).await;
        })
    }
}

impl Drop for RedbAdvertisement {
    fn drop(&mut self) {
        self.dropped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(std::mem::take(&mut self.id));
        if let Some(jobs) = self.jobs.upgrade() {
            // If the queue is full, the thread deletes the key after its current job.
            let _ = jobs.try_send(Job::Drop);
        }
    }
}
