//! The embedded store: one redb file, one thread.
//!
//! All work is done by a thread of its own, so that no fsync runs on the runtime. Transactions that wait while one is
//! being made durable are put into the next commit together: each compares against what the ones before
//! it left, all share one fsync, and none is answered before it.
//!
//! The file's checksums are verified at every open; a damaged page is an error that names it, never a
//! missing entry. After an I/O error (a full disk) redb refuses everything until it is opened again; the
//! thread does that before the next transaction, so that writes come back by themselves once there is room.

use std::{io, path::Path, sync::Arc, thread, time::Duration};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Advertisement, Batch, Boxed, CommitError, Entry, Op, ReadError, Revision, Store, Txn, View,
    Watch, WatchError,
};

mod advertised;
mod history;
#[cfg(test)]
mod tests;

use crate::record::ALIVE;
use advertised::Advertised;
use history::{History, LogWatch};

/// key → revision of the last write (8 bytes, big-endian), then the value.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
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
        let prepared = prepare(&database).and_then(|revision| {
            forget_advertised(&database)?;
            Ok(revision)
        });
        let revision = prepared.map_err(|failure| failure.into_read(shown))?;
        let history = Arc::new(History::new(revision));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let worker = Worker {
            shown: shown.to_owned(),
            opener,
            database: Some(database),
            history: Arc::clone(&history),
        };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.run(queue))
            .map_err(|error| ReadError::Unavailable(format!("no thread for {shown}: {error}")))?;
        Ok(Self { jobs, history })
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

    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let job = Job::Commit { txn, reply };
            self.jobs.send(job).await.map_err(|_| CommitError::Unavailable(CLOSED.to_owned()))?;
            answer.await.map_err(|_| CommitError::Unavailable(CLOSED.to_owned()))?
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

    /// The time to live is that of this process: nobody else holds the file.
    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        _ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>> {
        Box::pin(async move {
            let put = Op::Put { key: key.clone(), value };
            self.commit(Txn { compares: Vec::new(), ops: vec![put] }).await?;
            Ok(Box::new(Advertised::new(self.clone(), key)) as Box<dyn Advertisement>)
        })
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
    List { prefix: String, reply: oneshot::Sender<Result<View, ReadError>> },
    Commit { txn: Txn, reply: oneshot::Sender<Result<Revision, CommitError>> },
    Close { reply: oneshot::Sender<()> },
}

/// The thread. It ends on [`Job::Close`], or when the last handle is gone.
struct Worker {
    shown: String,
    opener: Opener,
    /// None after an I/O error, until it is opened again.
    database: Option<Database>,
    history: Arc<History>,
}

struct Pending {
    txn: Txn,
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
                Job::Commit { txn, reply } => {
                    let mut group = vec![Pending { txn, reply }];
                    while group.len() < GROUP && next.is_none() {
                        match queue.try_recv() {
                            Ok(Job::Commit { txn, reply }) => group.push(Pending { txn, reply }),
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.commit(group);
                }
                Job::Close { reply } => {
                    drop(self.database.take());
                    self.history.end();
                    let _ = reply.send(());
                    return;
                }
            }
        }
        self.history.end();
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

/// Whoever was alive when the file was last open is not any more: one process has it at a time.
fn forget_advertised(database: &Database) -> Result<(), Failure> {
    let write = database.begin_write().map_err(Failure::of)?;
    {
        let mut table = write.open_table(ENTRIES).map_err(Failure::of)?;
        // '0' comes after '/'.
        let end = format!("{}0", ALIVE.trim_end_matches('/'));
        table.retain_in(ALIVE..end.as_str(), |_, _| false).map_err(Failure::from)?;
    }
    write.commit().map_err(Failure::of)
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
        for Pending { txn, .. } in group {
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
                    }
                    Op::Delete { key } => {
                        table.remove(key.as_str()).map_err(Failure::from)?;
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
