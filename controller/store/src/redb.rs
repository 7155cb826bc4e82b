//! The embedded store: one redb file, one thread.
//!
//! A separate thread does all the work, so that no fsync blocks the runtime. Transactions that wait meanwhile go into the
//! next commit together: each compares with what those before it left, all share one fsync, and none is answered before
//! it.
//!
//! The file's checksums are verified when it is opened: a damaged page is an error, never a missing entry. After an I/O error
//! (a full disk) redb refuses everything until it is opened again. The thread does that before the next transaction, so
//! writes work again once there is room.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use redb::{Database, DatabaseError, StorageError};
use tokio::sync::{mpsc, oneshot};

use super::{
    Advertisement, Batch, Boxed, CommitError, Op, Page, ReadError, Revision, Store, Txn, View,
    Watch, WatchError,
};

mod advertisement;
mod file;
mod guarded;
mod history;
mod place;
#[cfg(test)]
mod tests;

use advertisement::{Dropped, RedbAdvertisement};
use file::{
    Failure, builder, changes, commit, create_private, delete_left_over, list, open_database, page,
    prepare,
};
use guarded::{Guarded, WriteStop};
use history::{History, LogWatch};
use place::{Found, Place};

/// Requests that wait for the thread; more wait in their callers.
const MAX_QUEUE: usize = 256;
/// Transactions that share one commit.
const MAX_GROUP: usize = 128;

/// Opens the database, again after an I/O error.
type Opener = Box<dyn FnMut() -> Result<Database, DatabaseError> + Send>;

/// Clones share the store. [`Store::close`], or dropping the last clone, closes the file.
#[derive(Clone)]
pub struct Redb {
    jobs: mpsc::Sender<Job>,
    history: Arc<History>,
    dropped: Dropped,
    /// The number of the next advertisement.
    next_number: Arc<AtomicU64>,
    /// The file; `None` in tests without one.
    path: Option<Arc<Path>>,
}

impl Redb {
    /// Opens the file or creates it (mode 0600), and verifies all its checksums.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if a page is damaged or the file is not a store; [`ReadError::Unavailable`] if it cannot be
    /// opened, for instance because another process has it open.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let shown = path.display().to_string();
        let failed = |error: io::Error| ReadError::Unavailable(format!("{shown}: {error}"));
        if std::fs::metadata(path).is_ok_and(|file| file.len() == 0) {
            return Err(Failure::damaged("it is empty").into_read(&shown));
        }
        create_private(path).map_err(failed)?;
        let place = Place::of(path).map_err(failed)?;
        let (path, stop) = (path.to_owned(), WriteStop::default());
        let opener = {
            let stop = stop.clone();
            move || {
                let file = std::fs::OpenOptions::new().read(true).write(true).open(&path);
                let file = file.map_err(|error| DatabaseError::Storage(StorageError::Io(error)))?;
                builder().create_with_backend(Guarded::new(file, stop.clone())?)
            }
        };
        Self::start_at(&shown, Box::new(opener), Some(place), stop)
    }

    #[cfg(test)]
    fn start(shown: &str, opener: Opener) -> Result<Self, ReadError> {
        Self::start_at(shown, opener, None, WriteStop::default())
    }

    fn start_at(
        shown: &str,
        mut opener: Opener,
        mut place: Option<Place>,
        write_stop: WriteStop,
    ) -> Result<Self, ReadError> {
        let failed = |failure: Failure| failure.into_read(shown);
        let database = open_database(&mut opener).map_err(failed)?;
        let revision = prepare(&database)
            .and_then(|revision| delete_left_over(&database, revision))
            .map_err(failed)?;
        place.iter_mut().for_each(Place::record_written);
        let path = place.as_ref().map(|place| Arc::from(place.path()));
        let history = Arc::new(History::new(revision));
        let (jobs, queue) = mpsc::channel(MAX_QUEUE);
        let dropped = Dropped::default();
        let worker = Worker {
            shown: shown.to_owned(),
            opener,
            place,
            write_stop,
            database: Some(database),
            history: Arc::clone(&history),
            advertised: BTreeMap::new(),
            dropped: Arc::clone(&dropped),
        };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.run(queue))
            .map_err(|error| ReadError::Unavailable(format!("no thread for {shown}: {error}")))?;
        Ok(Self { jobs, history, dropped, next_number: Arc::default(), path })
    }

    /// Sends a job to the thread, and waits for its answer.
    async fn run_job<T, E>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Job,
        closed: impl Fn() -> E,
    ) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Store for Redb {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    /// On a full disk small writes still succeed for a while.
    fn problem(&self) -> Option<String> {
        place::full_disk(self.path.as_deref()?)
    }

    fn max_ops(&self) -> usize {
        usize::MAX
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>> {
        let prefix = prefix.to_owned();
        let list = |reply| Job::List { prefix, reply };
        Box::pin(self.run_job(list, || ReadError::Unavailable(CLOSED.to_owned())))
    }

    fn page<'a>(&'a self, page: &'a Page) -> Boxed<'a, Result<View, ReadError>> {
        let page = page.clone();
        let read = |reply| Job::Page { page, reply };
        Box::pin(self.run_job(read, || ReadError::Unavailable(CLOSED.to_owned())))
    }

    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>> {
        let commit = |reply| Job::Commit(Pending { txn, advertisement: None, reply });
        Box::pin(self.run_job(commit, || CommitError::Unavailable(CLOSED.to_owned())))
    }

    /// The time to live is not needed: when the process dies, the next one deletes its keys.
    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        _ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>> {
        Box::pin(async move {
            let number = self.next_number.fetch_add(1, Ordering::Relaxed);
            // Before the commit is sent, so that a caller who does not wait for the answer leaves no key behind. It is
            // dropped after the answer's channel, which the thread relies on.
            let advertisement = RedbAdvertisement::new(
                (key.clone(), number),
                Arc::clone(&self.dropped),
                self.jobs.downgrade(),
                self.history.subscribe(),
            );
            let txn = Txn { compares: Vec::new(), ops: vec![Op::Put { key, value }] };
            let commit = |reply| Job::Commit(Pending { txn, advertisement: Some(number), reply });
            self.run_job(commit, || CommitError::Unavailable(CLOSED.to_owned())).await?;
            Ok(Box::new(advertisement) as Box<dyn Advertisement>)
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
                // An error means that the thread has ended already.
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
    /// An advertisement was [dropped](Dropped).
    Drop,
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// The thread's state. It ends on [`Job::Close`], or when the last handle is dropped.
struct Worker {
    shown: String,
    opener: Opener,
    /// Where the file is expected.
    place: Option<Place>,
    write_stop: WriteStop,
    /// `None` after an I/O error, until it is opened again.
    database: Option<Database>,
    history: Arc<History>,
    /// Advertised keys, each with the numbers of its advertisements.
    advertised: BTreeMap<String, BTreeSet<u64>>,
    dropped: Dropped,
}

struct Pending {
    txn: Txn,
    /// The number of the advertisement, if it is one.
    advertisement: Option<u64>,
    reply: oneshot::Sender<Result<Revision, CommitError>>,
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| queue.blocking_recv()) {
            match job {
                Job::List { prefix, reply } => {
                    // The caller may be gone, here and below.
                    let _ = reply.send(self.list(&prefix));
                }
                Job::Page { page, reply } => {
                    let _ = reply.send(self.page(&page));
                }
                Job::Commit(pending) => {
                    let mut group = vec![pending];
                    while group.len() < MAX_GROUP && next.is_none() {
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
                    self.close();
                    let _ = reply.send(());
                    return;
                }
            }
            // After every job, because `Job::Drop` is lost when the queue is full.
            self.delete_dropped();
        }
        self.close();
    }

    fn close(&mut self) {
        self.delete_advertised();
        // Closing writes too. What is wrong with the file was said before.
        let _ = self.check_place();
        self.database = None;
        self.history.end();
    }

    /// Deletes advertised keys that nobody holds any more.
    fn delete_dropped(&mut self) {
        let dropped =
            std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ops = Vec::new();
        for (key, number) in dropped {
            let Some(numbers) = self.advertised.get_mut(&key) else { continue };
            numbers.remove(&number);
            if numbers.is_empty() {
                self.advertised.remove(&key);
                ops.push(Op::Delete { key });
            }
        }
        if !ops.is_empty() {
            let (reply, _) = oneshot::channel();
            self.commit(vec![Pending {
                txn: Txn { compares: Vec::new(), ops },
                advertisement: None,
                reply,
            }]);
        }
    }

    fn delete_advertised(&mut self) {
        let all = self.advertised.iter();
        let all =
            all.flat_map(|(key, numbers)| numbers.iter().map(|number| (key.clone(), *number)));
        let all: Vec<_> = all.collect();
        *self.dropped.lock().unwrap_or_else(PoisonError::into_inner) = all;
        self.delete_dropped();
    }

    fn database(&mut self) -> Result<&Database, Failure> {
        if self.database.is_none() {
            if let Some(place) = &self.place {
                // Opening would make a new file.
                place.check()?;
                place.check_not_empty()?;
            }
            let opened = open_database(&mut self.opener)?;
            let revision = prepare(&opened)?;
            if revision < self.history.revision() {
                return Err(Failure::Other(format!(
                    "an older copy was put into the file while the store was open (revision {revision}, it was at {}): \
                     restart the controller to use it, or put the newer one back",
                    self.history.revision()
                )));
            }
            // A commit that was not confirmed may still have happened.
            self.history.restart_at(revision);
            self.place.iter_mut().for_each(Place::record_written);
            self.database = Some(opened);
        }
        self.database.as_ref().ok_or(Failure::Other("closed".to_owned()))
    }

    /// Fails if what is written would be lost. What another program has written is read again.
    fn check_place(&mut self) -> Result<(), Failure> {
        let Some(place) = &self.place else { return Ok(()) };
        // The handle stays: a file that was deleted can still be read, for a backup.
        if matches!(place.check()?, Found::Changed) && self.database.is_some() {
            self.write_stop.set(true);
            self.database = None;
            self.write_stop.set(false);
        }
        Ok(())
    }

    /// After an I/O error only a new redb handle works.
    fn close_on_error<T>(&mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        if result.is_err() {
            self.database = None;
        }
        result
    }

    fn list(&mut self, prefix: &str) -> Result<View, ReadError> {
        let result = self.database().and_then(|database| list(database, prefix));
        self.close_on_error(result).map_err(|failure| failure.into_read(&self.shown))
    }

    fn page(&mut self, range: &Page) -> Result<View, ReadError> {
        let result = self.database().and_then(|database| page(database, range));
        self.close_on_error(result).map_err(|failure| failure.into_read(&self.shown))
    }

    fn commit(&mut self, mut group: Vec<Pending>) {
        // The caller is gone, and its advertisement is dropped already, or will be.
        group.retain(|pending| pending.advertisement.is_none() || !pending.reply.is_closed());
        if group.is_empty() {
            return;
        }
        if let Err(failure) = self.check_place() {
            return refuse(group, &failure.into_commit(&self.shown));
        }
        let history = Arc::clone(&self.history);
        let result =
            self.database().and_then(|database| commit(database, history.revision(), &group));
        if self.database.is_some() {
            self.place.iter_mut().for_each(Place::record_written);
        }
        match self.close_on_error(result) {
            Ok(outcomes) => {
                let mut batches = Vec::new();
                let mut answers = Vec::new();
                for (pending, outcome) in group.into_iter().zip(outcomes) {
                    if let Ok(revision) = outcome {
                        if let Some(number) = pending.advertisement {
                            for op in &pending.txn.ops {
                                let key = op.key().to_owned();
                                self.advertised.entry(key).or_default().insert(number);
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
            Err(failure) => refuse(group, &failure.into_commit(&self.shown)),
        }
    }
}

fn refuse(group: Vec<Pending>, error: &CommitError) {
    tracing::error!(%error, "a commit of the store failed");
    for pending in group {
        let _ = pending.reply.send(Err(error.clone()));
    }
}
