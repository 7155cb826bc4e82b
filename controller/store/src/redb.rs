//! The embedded store: one redb file, one thread.
//!
//! All work is done by a thread of its own, so that no fsync runs on the runtime. Transactions that wait while one is
//! being made durable are put into the next commit together: each compares against what the ones before
//! it left, all share one fsync, and none is answered before it.
//!
//! The file's checksums are verified at every open; a damaged page is an error that names it, never a
//! missing entry. After an I/O error (a full disk) redb refuses everything until it is opened again; the
//! thread does that before the next transaction, so that writes come back by themselves once there is room.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, PoisonError},
    thread,
    time::Duration,
};

use redb::{Database, DatabaseError};
use tokio::sync::{mpsc, oneshot};

use super::{
    Advertisement, Batch, Boxed, CommitError, Op, Page, ReadError, Revision, Store, Txn, View,
    Watch, WatchError,
};

mod file;
mod held;
mod history;
#[cfg(test)]
mod tests;

use file::{
    Failure, builder, changes, clear_held, commit, create_private, list, open_database, page,
    prepare,
};
use held::{Dropped, Held};
use history::{History, LogWatch};

/// Requests waiting for the thread; more wait in their callers.
const QUEUE: usize = 256;
/// The most transactions that share one commit.
const GROUP: usize = 128;

/// Makes the database again after an I/O error.
type Opener = Box<dyn FnMut() -> Result<Database, DatabaseError> + Send>;

/// A handle to the store. Clones share it; the file is closed by [`Store::close`] or with the last of them.
#[derive(Clone)]
pub struct Redb {
    jobs: mpsc::Sender<Job>,
    history: Arc<History>,
    dropped: Dropped,
}

impl Redb {
    /// Opens the file, or makes it (mode 0600), and verifies every checksum in it.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if a page is damaged or the file is not a store; [`ReadError::Unavailable`] if
    /// it cannot be opened, for instance because another process holds it.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let shown = path.display().to_string();
        create_private(path)
            .map_err(|error| ReadError::Unavailable(format!("{shown}: {error}")))?;
        let path = path.to_owned();
        Self::start(&shown, Box::new(move || builder().create(&path)))
    }

    fn start(shown: &str, mut opener: Opener) -> Result<Self, ReadError> {
        let database = open_database(shown, &mut opener)?;
        let revision = prepare(&database)
            .and_then(|revision| clear_held(&database, revision))
            .map_err(|failure| failure.into_read(shown))?;
        let history = Arc::new(History::new(revision));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let dropped = Dropped::default();
        let worker = Worker {
            shown: shown.to_owned(),
            opener,
            database: Some(database),
            history: Arc::clone(&history),
            held: BTreeMap::new(),
            dropped: Arc::clone(&dropped),
        };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.run(queue))
            .map_err(|error| ReadError::Unavailable(format!("no thread for {shown}: {error}")))?;
        Ok(Self { jobs, history, dropped })
    }
}

impl Store for Redb {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn max_ops(&self) -> usize {
        usize::MAX
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let job = Job::List { prefix: prefix.to_owned(), reply };
            self.jobs.send(job).await.map_err(|_| ReadError::Unavailable(CLOSED.to_owned()))?;
            answer.await.map_err(|_| ReadError::Unavailable(CLOSED.to_owned()))?
        })
    }

    fn page<'a>(&'a self, page: &'a Page) -> Boxed<'a, Result<View, ReadError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let job = Job::Page { page: page.clone(), reply };
            self.jobs.send(job).await.map_err(|_| ReadError::Unavailable(CLOSED.to_owned()))?;
            answer.await.map_err(|_| ReadError::Unavailable(CLOSED.to_owned()))?
        })
    }

    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let job = Job::Commit(Pending { txn, held: false, reply });
            self.jobs.send(job).await.map_err(|_| CommitError::Unavailable(CLOSED.to_owned()))?;
            answer.await.map_err(|_| CommitError::Unavailable(CLOSED.to_owned()))?
        })
    }

    /// There is no other process that could outlive this one, so the time to live does not matter.
    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        _ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let ops = vec![Op::Put { key: key.clone(), value }];
            let txn = Txn { compares: Vec::new(), ops };
            let job = Job::Commit(Pending { txn, held: true, reply });
            self.jobs.send(job).await.map_err(|_| CommitError::Unavailable(CLOSED.to_owned()))?;
            answer.await.map_err(|_| CommitError::Unavailable(CLOSED.to_owned()))??;
            let held = Held::new(
                key,
                Arc::clone(&self.dropped),
                self.jobs.downgrade(),
                self.history.subscribe(),
            );
            Ok(Box::new(held) as Box<dyn Advertisement>)
        })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Boxed<'a, Result<Box<dyn Watch>, WatchError>> {
        let watch = LogWatch::new(Arc::clone(&self.history), prefix, from);
        Box::pin(async move { Ok(Box::new(watch) as Box<dyn Watch>) })
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            if self.jobs.send(Job::Close { reply }).await.is_ok() {
                // An error means that the thread has gone already, which is what was asked for.
                let _ = answer.await;
            }
        })
    }
}

const CLOSED: &str = "the embedded store is closed";

enum Job {
    List {
        prefix: String,
        reply: oneshot::Sender<Result<View, ReadError>>,
    },
    Page {
        page: Page,
        reply: oneshot::Sender<Result<View, ReadError>>,
    },
    Commit(Pending),
    /// Something was [`Dropped`].
    Drop,
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// The thread. It ends on [`Job::Close`], or when the last handle is gone.
struct Worker {
    shown: String,
    opener: Opener,
    /// None after an I/O error, until it is opened again.
    database: Option<Database>,
    history: Arc<History>,
    /// The keys that are advertised, and how many times.
    held: BTreeMap<String, usize>,
    dropped: Dropped,
}

struct Pending {
    txn: Txn,
    /// Whether what it puts is advertised.
    held: bool,
    reply: oneshot::Sender<Result<Revision, CommitError>>,
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| queue.blocking_recv()) {
            match job {
                Job::List { prefix, reply } => {
                    // A caller that has gone needs no answer, here and below.
                    let _ = reply.send(self.list(&prefix));
                }
                Job::Page { page, reply } => {
                    let _ = reply.send(self.page(&page));
                }
                Job::Commit(pending) => {
                    let mut group = vec![pending];
                    while group.len() < GROUP && next.is_none() {
                        match queue.try_recv() {
                            Ok(Job::Commit(pending)) => group.push(pending),
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.commit(group);
                }
                Job::Drop => {}
                Job::Close { reply } => {
                    self.withdraw_all();
                    drop(self.database.take());
                    self.history.end();
                    let _ = reply.send(());
                    return;
                }
            }
            // After every job: the word of it may have found no room in the queue.
            self.withdraw();
        }
        self.withdraw_all();
        self.history.end();
    }

    /// Deletes what is held no more.
    fn withdraw(&mut self) {
        let dropped =
            std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ops = Vec::new();
        for key in dropped {
            let Some(times) = self.held.get_mut(&key) else { continue };
            *times -= 1;
            if *times == 0 {
                self.held.remove(&key);
                ops.push(Op::Delete { key });
            }
        }
        if !ops.is_empty() {
            let (reply, _) = oneshot::channel();
            self.commit(vec![Pending {
                txn: Txn { compares: Vec::new(), ops },
                held: false,
                reply,
            }]);
        }
    }

    fn withdraw_all(&mut self) {
        let held = std::mem::take(&mut self.held).into_keys();
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        *dropped = held.collect();
        self.held = dropped.iter().map(|key| (key.clone(), 1)).collect();
        drop(dropped);
        self.withdraw();
    }

    fn database(&mut self) -> Result<&Database, Failure> {
        if self.database.is_none() {
            let opened = (self.opener)().map_err(Failure::from)?;
            // A commit that was not confirmed may have happened all the same.
            self.history.restart_at(prepare(&opened)?);
            self.database = Some(opened);
        }
        self.database.as_ref().ok_or(Failure::Other("closed".to_owned()))
    }

    /// redb latches I/O errors: from the first on, only a new handle works.
    fn after<T>(&mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        if result.is_err() {
            self.database = None;
        }
        result
    }

    fn list(&mut self, prefix: &str) -> Result<View, ReadError> {
        let result = self.database().and_then(|database| list(database, prefix));
        self.after(result).map_err(|failure| failure.into_read(&self.shown))
    }

    fn page(&mut self, wanted: &Page) -> Result<View, ReadError> {
        let result = self.database().and_then(|database| page(database, wanted));
        self.after(result).map_err(|failure| failure.into_read(&self.shown))
    }

    fn commit(&mut self, group: Vec<Pending>) {
        let history = Arc::clone(&self.history);
        let result =
            self.database().and_then(|database| commit(database, history.revision(), &group));
        match self.after(result) {
            Ok(outcomes) => {
                let mut batches = Vec::new();
                let mut answers = Vec::new();
                for (pending, outcome) in group.into_iter().zip(outcomes) {
                    if let Ok(revision) = outcome {
                        if pending.held {
                            for op in &pending.txn.ops {
                                *self.held.entry(op.key().to_owned()).or_default() += 1;
                            }
                        }
                        batches
                            .push(Arc::new(Batch { revision, changes: changes(pending.txn.ops) }));
                    }
                    answers.push((pending.reply, outcome));
                }
                self.history.extend(batches);
                for (reply, outcome) in answers {
                    let _ = reply.send(outcome);
                }
            }
            Err(failure) => {
                let error = failure.into_commit(&self.shown);
                tracing::error!(%error, "store");
                for pending in group {
                    let _ = pending.reply.send(Err(error.clone()));
                }
            }
        }
    }
}
