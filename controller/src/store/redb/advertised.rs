//! Keys that are there while their writer is.

use crate::store::{Advertisement, Boxed, Op, Txn};

use super::{Job, Redb};
use tokio::sync::oneshot;

pub(super) struct Advertised {
    store: Redb,
    key: String,
}

impl Advertised {
    pub(super) fn new(store: Redb, key: String) -> Self {
        Self { store, key }
    }
}

impl Advertisement for Advertised {
    fn lost(&mut self) -> Boxed<'_, ()> {
        // The file is this process's: it is kept until this is dropped.
        Box::pin(std::future::pending())
    }
}

impl Drop for Advertised {
    fn drop(&mut self) {
        let delete = Op::Delete { key: std::mem::take(&mut self.key) };
        let txn = Txn { compares: Vec::new(), ops: vec![delete] };
        // Nobody waits for it. If the queue is full, the next open removes the key.
        let (reply, _) = oneshot::channel();
        let _ = self.store.jobs.try_send(Job::Commit { txn, reply });
    }
}
