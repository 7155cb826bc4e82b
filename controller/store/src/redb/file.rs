//! The file's tables, and the transactions on them.

use std::{io, path::Path};

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable,
    StorageError, TableDefinition,
};

use super::{Opener, Pending};
use crate::{CommitError, Entry, Op, Page, ReadError, Revision, Txn, View};

/// key → revision of the last write (8 bytes, big-endian), then the value.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Advertised keys: the next process deletes those that a process left behind.
const ADVERTISED: TableDefinition<'_, &str, ()> = TableDefinition::new("held");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// The version of the layout above. A later one is refused.
const FORMAT_VERSION: u64 = 1;

/// redb's page cache in bytes. It is small, because the controller reads the whole store once and then only writes.
const CACHE_SIZE: usize = 8 << 20;
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_SIZE).set_check_integrity_on_open(true);
    builder
}

pub(super) fn open_database(opener: &mut Opener) -> Result<Database, Failure> {
    // redb may panic on a damaged file.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(opener)) {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(Failure::damaged("it cannot be read as a store")),
    }
}

pub(super) fn create_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// Creates the tables of a new file. Returns the revision.
pub(super) fn prepare(database: &Database) -> Result<Revision, Failure> {
    let write = database.begin_write().map_err(Failure::new)?;
    let revision = {
        write.open_table(ENTRIES).map_err(Failure::new)?;
        let mut meta = write.open_table(META).map_err(Failure::new)?;
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
    write.commit().map_err(Failure::new)?;
    Ok(revision)
}

/// Deletes the keys that a process advertised which has died. Returns the revision.
pub(super) fn delete_left_over(
    database: &Database,
    revision: Revision,
) -> Result<Revision, Failure> {
    let write = database.begin_write().map_err(Failure::new)?;
    let mut keys = Vec::new();
    {
        let mut advertised = write.open_table(ADVERTISED).map_err(Failure::new)?;
        for found in advertised.iter().map_err(Failure::from)? {
            keys.push(found.map_err(Failure::from)?.0.value().to_owned());
        }
        let mut table = write.open_table(ENTRIES).map_err(Failure::new)?;
        for key in &keys {
            table.remove(key.as_str()).map_err(Failure::from)?;
            advertised.remove(key.as_str()).map_err(Failure::from)?;
        }
        if !keys.is_empty() {
            let mut meta = write.open_table(META).map_err(Failure::new)?;
            meta.insert(REVISION, revision + 1).map_err(Failure::from)?;
        }
    }
    write.commit().map_err(Failure::new)?;
    Ok(if keys.is_empty() { revision } else { revision + 1 })
}

fn revision(read: &ReadTransaction) -> Result<Revision, Failure> {
    let meta = read.open_table(META).map_err(Failure::new)?;
    Ok(meta.get(REVISION).map_err(Failure::from)?.map_or(0, |revision| revision.value()))
}

pub(super) fn list(database: &Database, prefix: &str) -> Result<View, Failure> {
    let read = database.begin_read().map_err(Failure::new)?;
    let revision = revision(&read)?;
    let table = read.open_table(ENTRIES).map_err(Failure::new)?;
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

pub(super) fn page(database: &Database, range: &Page) -> Result<View, Failure> {
    let read = database.begin_read().map_err(Failure::new)?;
    let revision = revision(&read)?;
    let table = read.open_table(ENTRIES).map_err(Failure::new)?;
    let mut entries = Vec::new();
    if range.start < range.end {
        let mut items =
            table.range(range.start.as_str()..range.end.as_str()).map_err(Failure::from)?;
        while entries.len() < range.limit {
            let item = if range.from_end { items.next_back() } else { items.next() };
            let Some(item) = item else { break };
            let (key, stored) = item.map_err(Failure::from)?;
            let (modified, value) = split(key.value(), stored.value())?;
            let value = if range.values { value.to_vec() } else { Vec::new() };
            entries.push(Entry { key: key.value().to_owned(), value, modified });
        }
    }
    Ok(View { revision, entries })
}

/// One redb transaction for the whole group. An error means that none of it happened.
pub(super) fn commit(
    database: &Database,
    base: Revision,
    group: &[Pending],
) -> Result<Vec<Result<Revision, CommitError>>, Failure> {
    let write = database.begin_write().map_err(Failure::new)?;
    let mut revision = base;
    let mut outcomes = Vec::with_capacity(group.len());
    {
        let mut table = write.open_table(ENTRIES).map_err(Failure::new)?;
        let mut advertised = write.open_table(ADVERTISED).map_err(Failure::new)?;
        for Pending { txn, advertisement, .. } in group {
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
                        if advertisement.is_some() {
                            advertised.insert(key.as_str(), ()).map_err(Failure::from)?;
                        }
                    }
                    Op::Delete { key } => {
                        table.remove(key.as_str()).map_err(Failure::from)?;
                        advertised.remove(key.as_str()).map_err(Failure::from)?;
                    }
                }
            }
            outcomes.push(Ok(revision));
        }
        let mut meta = write.open_table(META).map_err(Failure::new)?;
        meta.insert(REVISION, revision).map_err(Failure::from)?;
    }
    write.commit().map_err(Failure::new)?;
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

pub(super) fn changes(ops: Vec<Op>) -> Vec<(String, Option<Vec<u8>>)> {
    ops.into_iter()
        .map(|op| match op {
            Op::Put { key, value } => (key, Some(value)),
            Op::Delete { key } => (key, None),
        })
        .collect()
}

/// An error of the file, before it becomes one of a read or of a commit.
pub(super) enum Failure {
    Full(String),
    Corrupt(String),
    Other(String),
}

impl Failure {
    /// The file has another content than a store's.
    pub(super) fn damaged(what: &str) -> Self {
        Self::Corrupt(format!(
            "it is damaged ({what}): stop the controller, move the file away, and restore a backup \
             (cframe-controller restore --in FILE)"
        ))
    }

    pub(super) fn new(error: impl Into<redb::Error>) -> Self {
        let error = error.into();
        let shown = error.to_string();
        #[expect(clippy::wildcard_enum_match_arm, reason = "redb's error is non-exhaustive")]
        match error {
            redb::Error::Io(error) if is_full(&error) => Self::Full(shown),
            redb::Error::Corrupted(what) => Self::damaged(&what),
            _ => Self::Other(shown),
        }
    }

    pub(super) fn into_read(self, shown: &str) -> ReadError {
        match self {
            Self::Corrupt(what) => ReadError::Corrupt(format!("{shown}: {what}")),
            Self::Full(what) | Self::Other(what) => {
                ReadError::Unavailable(format!("{shown}: {what}"))
            }
        }
    }

    pub(super) fn into_commit(self, shown: &str) -> CommitError {
        match self {
            Self::Full(what) => CommitError::Full(format!("{shown}: {what}")),
            Self::Corrupt(what) => CommitError::Corrupt(format!("{shown}: {what}")),
            Self::Other(what) => CommitError::Unavailable(format!("{shown}: {what}")),
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::new(error)
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        if matches!(error, DatabaseError::DatabaseAlreadyOpen) {
            return Self::Other(
                "another process has it open; is a controller running on this directory?"
                    .to_owned(),
            );
        }
        // redb reports a file that is no database as invalid data.
        if let DatabaseError::Storage(StorageError::Io(error)) = &error
            && matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        {
            return Self::damaged(&error.to_string());
        }
        Self::new(error)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
