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
    io,
    path::Path,
    sync::{Arc, PoisonError},
    thread,
    time::Duration,
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Advertisement, Batch, Boxed, CommitError, Entry, Op, Page, ReadError, Revision, Store, Txn,
    View, Watch, WatchError,
};

mod held;
mod history;
#[cfg(test)]
mod tests;

use held::{Dropped, Held};
use history::{History, LogWatch};

/// key → revision of the last write (8 bytes, big-endian), then the value.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The keys that are advertised: those that a process left behind are deleted by the next one.
const HELD: TableDefinition<'_, &str, ()> = TableDefinition::new("held");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// The layout above. A file of a later one is refused.
const FORMAT_VERSION: u64 = 1;

/// redb's page cache. The controller reads the whole store once, and then only writes.
const CACHE: usize = 8 << 20;
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

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

fn open_database(shown: &str, opener: &mut Opener) -> Result<Database, ReadError> {
    // A damaged file must not take the process with it, whatever redb does on one.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(opener)) {
        Ok(opened) => opened.map_err(|error| Failure::from(error).into_read(shown)),
        Err(_) => Err(ReadError::Corrupt(format!("{shown} cannot be read as a store"))),
    }
}

fn create_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// Makes the tables of a new file; answers with the revision.
fn prepare(database: &Database) -> Result<Revision, Failure> {
    let write = database.begin_write().map_err(Failure::of)?;
    let revision = {
        write.open_table(ENTRIES).map_err(Failure::of)?;
        let mut meta = write.open_table(META).map_err(Failure::of)?;
        let format = meta.get(FORMAT).map_err(Failure::from)?.map(|format| format.value());
        match format {
            None => {
                meta.insert(FORMAT, FORMAT_VERSION).map_err(Failure::from)?;
                meta.insert(REVISION, 0).map_err(Failure::from)?;
            }
            Some(FORMAT_VERSION) => {}
            Some(later) => {
                return Err(Failure::Corrupt(format!(
                    "it has format {later}, this program knows {FORMAT_VERSION}"
                )));
            }
        }
        let revision = meta.get(REVISION).map_err(Failure::from)?.map(|revision| revision.value());
        revision.ok_or_else(|| Failure::Corrupt("it has no revision".to_owned()))?
    };
    write.commit().map_err(Failure::of)?;
    Ok(revision)
}

/// Deletes what a process that died had advertised; answers with the revision.
fn clear_held(database: &Database, revision: Revision) -> Result<Revision, Failure> {
    let write = database.begin_write().map_err(Failure::of)?;
    let mut keys = Vec::new();
    {
        let mut held = write.open_table(HELD).map_err(Failure::of)?;
        for found in held.iter().map_err(Failure::from)? {
            keys.push(found.map_err(Failure::from)?.0.value().to_owned());
        }
        let mut table = write.open_table(ENTRIES).map_err(Failure::of)?;
        for key in &keys {
            table.remove(key.as_str()).map_err(Failure::from)?;
            held.remove(key.as_str()).map_err(Failure::from)?;
        }
        if !keys.is_empty() {
            let mut meta = write.open_table(META).map_err(Failure::of)?;
            meta.insert(REVISION, revision + 1).map_err(Failure::from)?;
        }
    }
    write.commit().map_err(Failure::of)?;
    Ok(if keys.is_empty() { revision } else { revision + 1 })
}

fn list(database: &Database, prefix: &str) -> Result<View, Failure> {
    let read = database.begin_read().map_err(Failure::of)?;
    let meta = read.open_table(META).map_err(Failure::of)?;
    let revision =
        meta.get(REVISION).map_err(Failure::from)?.map_or(0, |revision| revision.value());
    let table = read.open_table(ENTRIES).map_err(Failure::of)?;
    let mut entries = Vec::new();
    for item in table.range(prefix..).map_err(Failure::from)? {
        let (key, stored) = item.map_err(Failure::from)?;
        let key = key.value();
        if !key.starts_with(prefix) {
            break;
        }
        let (modified, value) = split(key, stored.value())?;
        entries.push(Entry { key: key.to_owned(), value: value.to_vec(), modified });
    }
    Ok(View { revision, entries })
}

fn page(database: &Database, wanted: &Page) -> Result<View, Failure> {
    let read = database.begin_read().map_err(Failure::of)?;
    let meta = read.open_table(META).map_err(Failure::of)?;
    let revision =
        meta.get(REVISION).map_err(Failure::from)?.map_or(0, |revision| revision.value());
    let table = read.open_table(ENTRIES).map_err(Failure::of)?;
    let mut entries = Vec::new();
    if wanted.start < wanted.end {
        let mut range =
            table.range(wanted.start.as_str()..wanted.end.as_str()).map_err(Failure::from)?;
        while entries.len() < wanted.limit {
            let item = if wanted.from_end { range.next_back() } else { range.next() };
            let Some(item) = item else { break };
            let (key, stored) = item.map_err(Failure::from)?;
            let (modified, value) = split(key.value(), stored.value())?;
            let value = if wanted.values { value.to_vec() } else { Vec::new() };
            entries.push(Entry { key: key.value().to_owned(), value, modified });
        }
    }
    Ok(View { revision, entries })
}

/// One redb transaction for the whole group. An error means that none of it happened.
fn commit(
    database: &Database,
    base: Revision,
    group: &[Pending],
) -> Result<Vec<Result<Revision, CommitError>>, Failure> {
    let write = database.begin_write().map_err(Failure::of)?;
    let mut revision = base;
    let mut outcomes = Vec::with_capacity(group.len());
    {
        let mut table = write.open_table(ENTRIES).map_err(Failure::of)?;
        let mut held = write.open_table(HELD).map_err(Failure::of)?;
        for Pending { txn, held: is_held, .. } in group {
            if let Some(key) = first_conflict(&table, txn)? {
                outcomes.push(Err(CommitError::Conflict(key)));
                continue;
            }
            revision += 1;
            for op in &txn.ops {
                match op {
                    Op::Put { key, value } => {
                        let mut stored = revision.to_be_bytes().to_vec();
                        stored.extend_from_slice(value);
                        table.insert(key.as_str(), stored.as_slice()).map_err(Failure::from)?;
                        if *is_held {
                            held.insert(key.as_str(), ()).map_err(Failure::from)?;
                        }
                    }
                    Op::Delete { key } => {
                        table.remove(key.as_str()).map_err(Failure::from)?;
                        held.remove(key.as_str()).map_err(Failure::from)?;
                    }
                }
            }
            outcomes.push(Ok(revision));
        }
        let mut meta = write.open_table(META).map_err(Failure::of)?;
        meta.insert(REVISION, revision).map_err(Failure::from)?;
    }
    write.commit().map_err(Failure::of)?;
    Ok(outcomes)
}

fn first_conflict(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    txn: &Txn,
) -> Result<Option<String>, Failure> {
    for compare in &txn.compares {
        let modified = match table.get(compare.key.as_str()).map_err(Failure::from)? {
            Some(stored) => split(&compare.key, stored.value())?.0,
            None => 0,
        };
        if modified != compare.modified {
            return Ok(Some(compare.key.clone()));
        }
    }
    Ok(None)
}

fn split<'a>(key: &str, stored: &'a [u8]) -> Result<(Revision, &'a [u8]), Failure> {
    let (revision, value) = stored
        .split_first_chunk::<8>()
        .ok_or_else(|| Failure::Corrupt(format!("{key} has no revision")))?;
    Ok((Revision::from_be_bytes(*revision), value))
}

fn changes(ops: Vec<Op>) -> Vec<(String, Option<Vec<u8>>)> {
    ops.into_iter()
        .map(|op| match op {
            Op::Put { key, value } => (key, Some(value)),
            Op::Delete { key } => (key, None),
        })
        .collect()
}

/// What went wrong below, before it is known for whom.
enum Failure {
    Full(String),
    Corrupt(String),
    Other(String),
}

impl Failure {
    fn of(error: impl Into<redb::Error>) -> Self {
        let error = error.into();
        let shown = error.to_string();
        #[expect(clippy::wildcard_enum_match_arm, reason = "redb's error is non-exhaustive")]
        match error {
            redb::Error::Io(error) if is_full(&error) => Self::Full(shown),
            redb::Error::Corrupted(what) => Self::Corrupt(what),
            _ => Self::Other(shown),
        }
    }

    fn into_read(self, shown: &str) -> ReadError {
        match self {
            Self::Corrupt(what) => ReadError::Corrupt(format!("{shown}: {what}")),
            Self::Full(what) | Self::Other(what) => {
                ReadError::Unavailable(format!("{shown}: {what}"))
            }
        }
    }

    fn into_commit(self, shown: &str) -> CommitError {
        match self {
            Self::Full(what) => CommitError::Full(format!("{shown}: {what}")),
            Self::Corrupt(what) => CommitError::Corrupt(format!("{shown}: {what}")),
            Self::Other(what) => CommitError::Unavailable(format!("{shown}: {what}")),
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::of(error)
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        if matches!(error, DatabaseError::DatabaseAlreadyOpen) {
            return Self::Other(
                "another process holds it; is a controller running on this directory?".to_owned(),
            );
        }
        // redb reports a file that is no database as invalid data.
        if let DatabaseError::Storage(StorageError::Io(error)) = &error
            && matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        {
            return Self::Corrupt(error.to_string());
        }
        Self::of(error)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
