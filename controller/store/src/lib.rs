//! The store behind a trait: keys with JSON values, transactions with comparisons, watches that can be resumed.
//!
//! The trait follows etcd, the back end with the fewest freedoms; the embedded one ([`redb`]) does the same on one file.
//! Both pass the suite in the module `conformance`.
//!
//! Every back end guarantees:
//! - a [`Revision`] counts the store's committed transactions and only grows;
//! - [`Store::list`] and [`Store::page`] answer from one revision, however many entries they return;
//! - [`Store::commit`] is all or nothing, and durable before it answers;
//! - a [`Watch`] gives every revision after its start, in order, each as a whole, or ends with
//!   [`WatchError::Compacted`], after which the reader lists again and computes the difference;
//! - an [`Advertisement`]'s key is deleted soon after its holder is gone, however the holder ended.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

use std::{future::Future, pin::Pin, time::Duration};

use thiserror::Error;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(any(test, feature = "conformance"))]
pub mod faulty;
pub mod redb;

/// A future that a trait object can return.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The number of a committed transaction; 0 is the empty store.
pub type Revision = u64;

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole key, such as `/cframe/v1/edges/prod/aws-hk`.
    pub key: String,
    /// JSON in everything that this program writes.
    pub value: Vec<u8>,
    /// The revision that wrote this value.
    pub modified: Revision,
}

/// Every entry under a prefix, all as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub revision: Revision,
    /// Sorted by key.
    pub entries: Vec<Entry>,
}

/// A range of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Inclusive.
    pub start: String,
    /// Exclusive.
    pub end: String,
    pub limit: usize,
    /// Return the last entries, the last one first, instead of the first ones.
    pub from_end: bool,
    /// Without this, values are empty.
    pub values: bool,
}

/// A condition of a transaction: `key` was last written at `modified`, or is absent if that is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub key: String,
    /// The revision of its last write; 0 means that it must be absent.
    pub modified: Revision,
}

/// One effect of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: Vec<u8>,
    },
    /// It is no error if the key is absent.
    Delete {
        key: String,
    },
}

impl Op {
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A write: if every comparison holds, all effects happen, otherwise none. No key may be in two effects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

/// What one revision changed under the watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub revision: Revision,
    /// Key and new value; `None` if the key was deleted.
    pub changes: Vec<(String, Option<Vec<u8>>)>,
}

#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ReadError {
    /// Stored data is damaged. None of it is served.
    #[error("the store is corrupt: {0}; restore it from a backup (`cframe-controller restore`)")]
    Corrupt(String),
    #[error("the store does not answer: {0}")]
    Unavailable(String),
}

/// Why a transaction did not happen. After any of these except [`CommitError::Unavailable`] nothing of it did.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum CommitError {
    /// A comparison failed: another writer wrote this key.
    #[error("{0} was changed by another writer at the same time")]
    Conflict(String),
    /// Reads still work.
    #[error("the store is full: {0}; free some space and try again")]
    Full(String),
    #[error("the change is too large for the store: {0}")]
    TooLarge(String),
    /// Stored data is damaged.
    #[error("the store is corrupt: {0}; restore it from a backup (`cframe-controller restore`)")]
    Corrupt(String),
    /// The transaction may or may not have happened.
    #[error("the store did not confirm the write: {0}")]
    Unavailable(String),
}

/// Why a watch ended.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum WatchError {
    /// The store no longer has the changes after this revision: list again.
    #[error("the changes after revision {0} are no longer available")]
    Compacted(Revision),
    /// The store was closed, or the connection to it lost.
    #[error("the watch ended: {0}")]
    Ended(String),
}

/// A stream of changes.
pub trait Watch: Send {
    /// Waits for the next revision that changed something under the prefix. Cancel-safe.
    fn next(&mut self) -> Boxed<'_, Result<Batch, WatchError>>;
}

/// A key that is in the store while this is held. Dropping it deletes the key soon afterwards. When the process dies, the
/// key is deleted within the time to live.
pub trait Advertisement: Send {
    /// Waits until the store has deleted the key, because it could not be reached for the time to live or was closed. Then
    /// advertise again. Cancel-safe.
    fn lost(&mut self) -> Boxed<'_, ()>;
}

/// One process may have several handles to one store.
pub trait Store: Send + Sync + 'static {
    /// For `status`: `"embedded"`, `"etcd"`.
    fn kind(&self) -> &'static str;

    /// For `status`, such as `"2 of 3 members"`; `None` if there is nothing to report.
    fn health(&self) -> Option<String> {
        None
    }

    /// Why writes fail or will soon, if that is known without writing.
    fn problem(&self) -> Option<String> {
        None
    }

    /// The maximum number of effects, and of comparisons, in one transaction.
    fn max_ops(&self) -> usize;

    /// All entries whose key starts with `prefix`, as of one revision.
    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>>;

    /// A range of entries, as of one revision. This default lists everything under the common prefix of the two bounds.
    fn page<'a>(&'a self, page: &'a Page) -> Boxed<'a, Result<View, ReadError>> {
        Box::pin(async move {
            let View { revision, entries } = self.list(common(&page.start, &page.end)).await?;
            let mut entries: Vec<Entry> = entries
                .into_iter()
                .filter(|entry| (page.start.as_str()..page.end.as_str()).contains(&&*entry.key))
                .collect();
            if page.from_end {
                entries.reverse();
            }
            entries.truncate(page.limit);
            if !page.values {
                entries.iter_mut().for_each(|entry| entry.value = Vec::new());
            }
            Ok(View { revision, entries })
        })
    }

    /// Carries out a transaction, and returns its revision once it is durable.
    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>>;

    /// The changes under `prefix` after `from`.
    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Boxed<'a, Result<Box<dyn Watch>, WatchError>>;

    /// Sets a key, also if it exists, for as long as the advertisement is held. `ttl` is how long the key may outlive a
    /// process that died, in whole seconds, at least 2; a change of etcd's leader starts it again.
    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>>;

    /// Deletes advertised keys, completes what has started, and closes files and connections. Later calls fail as
    /// unavailable.
    fn close(&self) -> Boxed<'_, ()>;
}

/// The common prefix of two texts.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b);
    let end = same.map_or(one.len().min(other.len()), |((at, _), _)| at);
    &one[..end]
}
