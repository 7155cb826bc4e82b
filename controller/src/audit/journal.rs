//! Records that are written by themselves, a moment after the call: a bounded queue, filled at a bounded rate.
//!
//! Refusals are cheap to cause, and must neither fill the store nor push out the records of changes. So each
//! source has a few, and all have some together; what is beyond that is counted, and the number written.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cframe_pki::identity::Label;
use cframe_store::Op;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Act, Record, Who, millis};
use crate::{mesh::Mesh, server::Context};

mod limit;

pub(crate) use limit::Kind;
use limit::Limiter;

/// Records that wait for the store, while it takes none.
const WAITING: usize = 256;
/// Records in one transaction.
const AT_ONCE: usize = 64;
/// The pause after the store refused.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is written how many were left out.
const SUMMARY: Duration = Duration::from_secs(600);
/// Connections that follow the log at once.
const FOLLOWERS: usize = 32;

/// The records of one controller on their way to the store.
#[derive(Debug)]
pub struct Journal {
    controller: Label,
    number: AtomicU32,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Records since the log was last trimmed.
    since_trim: AtomicUsize,
    pub(super) grown: Notify,
    pub(super) followers: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Op>,
    limiter: Limiter,
    left_out: u64,
}

impl Journal {
    /// The journal of a controller.
    pub fn new(controller: Label) -> Self {
        Self {
            controller,
            // So that a clock that was set back gives no key twice.
            number: AtomicU32::new(rand::random()),
            queue: Mutex::default(),
            wake: Notify::new(),
            since_trim: AtomicUsize::new(0),
            grown: Notify::new(),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        }
    }

    /// The record of an act that went well so far, at `now` in Unix seconds.
    pub fn record(&self, act: &Act, now: u64) -> Record {
        Record::of(act, &self.controller, millis(now))
    }

    /// The effect that writes a record.
    pub fn write(&self, record: &Record) -> Op {
        record.write(self.number.fetch_add(1, Ordering::Relaxed))
    }

    /// The same of an act that is done now, by the system's clock.
    pub fn write_now(&self, act: &Act) -> Op {
        self.write(&self.record(act, cframe_pki::unix_now()))
    }

    /// Has a record written that belongs to no change, or counts it as left out.
    pub(crate) fn note(&self, kind: Kind, act: &Act, record: &Record) {
        act.set_recorded();
        let op = self.write(record);
        let mut queue = self.queue();
        let admitted = queue.limiter.admit(kind, act.source(), Instant::now());
        if admitted && queue.waiting.len() < WAITING {
            queue.waiting.push_back(op);
            drop(queue);
            self.wake.notify_one();
        } else {
            queue.left_out += 1;
        }
    }

    /// Counts records that were written, so that the log is trimmed when it has grown by a tenth.
    pub(crate) fn written(&self, records: usize, keep: usize) {
        if self.since_trim.fetch_add(records, Ordering::Relaxed) + records > keep / 10 {
            self.since_trim.store(0, Ordering::Relaxed);
            self.grown.notify_one();
        }
    }

    fn take(&self) -> Vec<Op> {
        let mut queue = self.queue();
        let count = queue.waiting.len().min(AT_ONCE);
        queue.waiting.drain(..count).collect()
    }

    fn put_back(&self, ops: Vec<Op>) {
        let mut queue = self.queue();
        for op in ops.into_iter().rev() {
            if queue.waiting.len() < WAITING {
                queue.waiting.push_front(op);
            } else {
                queue.left_out += 1;
            }
        }
    }

    /// Adds how many were left out since this was last asked.
    fn sum_up(&self, mesh: &Mesh) {
        let left_out = std::mem::take(&mut self.queue().left_out);
        if left_out == 0 {
            return;
        }
        mesh.metrics.audit("left_out", left_out);
        tracing::warn!(left_out, "calls were too many to be recorded one by one");
        let act = Act::new(Who::Controller(self.controller.clone()), "audit");
        let record = Record { left_out, ..self.record(&act, mesh.now()) };
        let op = self.write(&record);
        let mut queue = self.queue();
        if queue.waiting.len() < WAITING {
            queue.waiting.push_back(op);
        } else {
            queue.left_out += left_out;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what waits until stopped, and then what is left.
pub(crate) async fn write_out(context: Arc<Context>, stop: CancellationToken) {
    let mesh = &context.mesh;
    let journal = mesh.journal();
    let mut summary = tokio::time::interval(SUMMARY);
    let mut stopped = false;
    while !stopped {
        tokio::select! {
            () = journal.wake.notified() => {}
            _ = summary.tick() => journal.sum_up(mesh),
            () = stop.cancelled() => {
                journal.sum_up(mesh);
                stopped = true;
            }
        }
        loop {
            let ops = journal.take();
            if ops.is_empty() {
                break;
            }
            if let Err(error) = mesh.record_alone(ops.clone()).await {
                tracing::warn!(%error, records = ops.len(), "records of the audit log have to wait");
                journal.put_back(ops);
                if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                    return;
                }
            }
        }
    }
}
