//! Keys that are there while their writer is.

use crate::store::{Advertisement, Boxed, Op, Store, Txn};

use super::{Job, Redb};
use tokio::sync::oneshot;

pub(super) struct Advertised {
    store: Redb,
    /// `None` once it was withdrawn.
    key: Option<String>,
}

impl Advertised {
    pub(super) fn new(store: Redb, key: String) -> Self {
        Self { store, key: Some(key) }
    }
}

impl Advertisement for Advertised {
    fn lost(&mut self) -> Boxed<'_, ()> {
        // The file is this process's: it is kept until it is withdrawn.
        Box::pin(std::future::pending())
    }

    fn withdraw(mut self: Box<Self>) -> Boxed<'static, ()> {
        Box::pin(async move {
            if let Some(key) = self.key.take() {
                // A store that is closed is one where nobody is alive.
                let _ = self.store.commit(removal(key)).await;
            }
        })
    }
}

impl Drop for Advertised {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            // Nobody waits for it. If the queue is full, the next open removes the key.
            let (reply, _) = oneshot::channel();
            let _ = self.store.jobs.try_send(Job::Commit { txn: removal(key), reply });
        }
    }
}

fn removal(key: String) -> Txn {
    Txn { compares: Vec::new(), ops: vec![Op::Delete { key }] }
}
