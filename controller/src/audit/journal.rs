//! Records that belong to no transaction: they wait in a bounded queue, at a limited rate, until they are written.
//!
//! Refusals are cheap to cause, and must neither fill the store nor displace the records of changes. So each source
//! has a limit and all together have one. What exceeds them is counted, and the count is written.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Instant,
};

use cframe_pki::identity::Label;
use cframe_store::Op;
use tokio::sync::{Notify, Semaphore};

use super::{
    Act, AuditRecord, Who,
    limit::{Kind, Limiter},
    millis,
};

/// Records that wait while the store takes none.
const MAX_WAITING: usize = 256;
/// Records in one transaction.
const MAX_BATCH: usize = 64;
/// Connections that follow the log at once.
const MAX_FOLLOWERS: usize = 32;

/// Makes the records of one controller, and holds those that wait for the store.
#[derive(Debug)]
pub struct Journal {
    controller: Label,
    number: AtomicU32,
    queue: Mutex<Queue>,
    added: Notify,
    /// Records since the log was last trimmed.
    since_trim: AtomicUsize,
    pub(crate) trim_due: Notify,
    pub(crate) followers: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Op>,
    limiter: Limiter,
    omitted: u64,
}

impl Journal {
    pub fn new(controller: Label) -> Self {
        Self {
            controller,
            // A clock that was set back must not lead to the same key twice.
            number: AtomicU32::new(rand::random()),
            queue: Mutex::default(),
            added: Notify::new(),
            since_trim: AtomicUsize::new(0),
            trim_due: Notify::new(),
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        }
    }

    /// The record of an act that did not fail so far. `now` is in Unix seconds.
    pub fn record(&self, act: &Act, now: u64) -> AuditRecord {
        AuditRecord::new(act, &self.controller, millis(now))
    }

    /// The effect that writes a record.
    pub fn op(&self, record: &AuditRecord) -> Op {
        record.op(self.number.fetch_add(1, Ordering::Relaxed))
    }

    /// The effect that writes the record of an act that is done now, by the system's clock.
    pub fn op_now(&self, act: &Act) -> Op {
        self.op(&self.record(act, cframe_pki::unix_now()))
    }

    /// Queues a record, or counts it as omitted.
    pub(crate) fn enqueue(&self, kind: Kind, act: &Act, record: &AuditRecord) {
        act.set_recorded();
        let op = self.op(record);
        let mut queue = self.queue();
        let admitted = queue.limiter.admit(kind, act.source(), Instant::now());
        if admitted && queue.waiting.len() < MAX_WAITING {
            queue.waiting.push_back(op);
            drop(queue);
            self.added.notify_one();
        } else {
            queue.omitted += 1;
        }
    }

    /// Waits until something was queued.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// Counts records that were written. When the log has grown by a tenth of `max`, it should be trimmed.
    pub(crate) fn count_written(&self, records: usize, max: usize) {
        if self.since_trim.fetch_add(records, Ordering::Relaxed) + records > max / 10 {
            self.since_trim.store(0, Ordering::Relaxed);
            self.trim_due.notify_one();
        }
    }

    /// The next batch to write.
    pub(crate) fn take(&self) -> Vec<Op> {
        let mut queue = self.queue();
        let count = queue.waiting.len().min(MAX_BATCH);
        queue.waiting.drain(..count).collect()
    }

    /// Queues a batch again that was not written.
    pub(crate) fn put_back(&self, ops: Vec<Op>) {
        let mut queue = self.queue();
        for op in ops.into_iter().rev() {
            if queue.waiting.len() < MAX_WAITING {
                queue.waiting.push_front(op);
            } else {
                queue.omitted += 1;
            }
        }
    }

    /// Queues a record of how many were omitted since the last call, and returns the number.
    pub(crate) fn sum_up(&self, now: u64) -> u64 {
        let omitted = std::mem::take(&mut self.queue().omitted);
        if omitted == 0 {
            return 0;
        }
        let act = Act::new(Who::Controller(self.controller.clone()), "audit");
        let op = self.op(&AuditRecord { left_out: omitted, ..self.record(&act, now) });
        let mut queue = self.queue();
        if queue.waiting.len() < MAX_WAITING {
            queue.waiting.push_back(op);
        } else {
            queue.omitted += omitted;
        }
        omitted
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
