//! The store behind a trait: keys with JSON values, transactions that compare, watches that resume.
//!
//! The shape is that of etcd, because that is the back end with the fewest freedoms; the embedded one
//! ([`redb`]) does the same things on one file. The module `conformance` is what both must pass.
//!
//! Rules that every back end keeps:
//! - a [`Revision`] counts the store's committed transactions and only grows;
//! - [`Store::list`] and [`Store::page`] answer from one revision, however many entries they return;
//! - [`Store::commit`] is all or nothing, and durable before it answers;
//! - a [`Watch`] gives every revision after the one it starts from, in order, each as a whole, or ends
//!   with [`WatchError::Compacted`], after which the reader lists again and takes the difference;
//! - an [`Advertisement`] is gone soon after its holder is, however that ended.

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
    /// The value: JSON in everything that this program writes.
    pub value: Vec<u8>,
    /// The revision that wrote this value.
    pub modified: Revision,
}

/// Every entry under a prefix, all as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The revision that this is the state of.
    pub revision: Revision,
    /// The entries, ordered by key.
    pub entries: Vec<Entry>,
}

/// A part of the keys, to be read in pieces of which each is as of its own revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The first key that may be in it.
    pub start: String,
    /// The first key after it.
    pub end: String,
    /// Entries at most.
    pub limit: usize,
    /// The last entries, from the last on, instead of the first.
    pub from_end: bool,
    /// Without it values are empty, and cost nothing.
    pub values: bool,
}

/// A condition of a transaction: `key` was last written at `modified`, or is absent if that is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key to compare.
    pub key: String,
    /// The revision of its last write that the writer decided upon; 0 means that it must be absent.
    pub modified: Revision,
}

/// One effect of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes a key; it is no error if there is none.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// The key that this changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A write: if every comparison holds, all effects happen, else none. No key may occur in two effects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must still be so.
    pub compares: Vec<Compare>,
    /// What happens then.
    pub ops: Vec<Op>,
}

/// What one revision changed under the watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// Its changes: key, and the new value unless the key was removed.
    pub changes: Vec<(String, Option<Vec<u8>>)>,
}

/// Why nothing could be read.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ReadError {
    /// What is stored is damaged. Nothing of it is served.
    #[error("the store is corrupt: {0}; restore it from a backup (`cframe-controller restore`)")]
    Corrupt(String),
    /// The store cannot be reached or does not answer.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
}

/// Why a transaction did not happen. After any of these except [`CommitError::Unavailable`] nothing of it did.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum CommitError {
    /// A comparison failed: somebody else wrote the key in between.
    #[error("{0} was changed by another writer at the same time")]
    Conflict(String),
    /// There is no room. Reading goes on.
    #[error("the store is full: {0}; free some space and try again")]
    Full(String),
    /// The transaction is larger than the store takes.
    #[error("the change is too large for the store: {0}")]
    TooLarge(String),
    /// What is stored is damaged.
    #[error("the store is corrupt: {0}; restore it from a backup (`cframe-controller restore`)")]
    Corrupt(String),
    /// The store did not confirm: the transaction may or may not have happened.
    #[error("the store did not confirm the write: {0}")]
    Unavailable(String),
}

/// Why a watch ended.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum WatchError {
    /// The changes after the reader's revision are no longer kept: list again.
    #[error("the changes after revision {0} are no longer kept")]
    Compacted(Revision),
    /// The store was closed or lost.
    #[error("the watch ended: {0}")]
    Ended(String),
}

/// A stream of changes.
pub trait Watch: Send {
    /// Waits for the next revision that changed something under the prefix. Cancel-safe.
    fn next(&mut self) -> Boxed<'_, Result<Batch, WatchError>>;
}

/// A key that is in the store while this is held. Dropping it deletes the key, soon afterwards; so does the
/// death of the process, within the time to live.
pub trait Advertisement: Send {
    /// Waits until the store has taken the key away, because it could not be reached for as long as the time
    /// to live, or was closed. Advertise again then. Cancel-safe.
    fn lost(&mut self) -> Boxed<'_, ()>;
}

/// A store. One process may hold several handles to one.
pub trait Store: Send + Sync + 'static {
    /// What kind of store this is, for `status`: `"embedded"`, `"etcd"`.
    fn kind(&self) -> &'static str;

    /// How the store itself fares, for `status`, such as `"2 of 3 members"`; `None` if there is nothing to say.
    fn health(&self) -> Option<String> {
        None
    }

    /// The most effects, and the most comparisons, that one transaction may have.
    fn max_ops(&self) -> usize;

    /// Everything whose key starts with `prefix`, as of one revision.
    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>>;

    /// A page of what is there.
    ///
    /// A store that can read a range does so; this lists everything below what the page's bounds have in common.
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

    /// Carries a transaction out and answers with its revision once it is durable.
    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>>;

    /// The changes under `prefix` after `from`.
    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Boxed<'a, Result<Box<dyn Watch>, WatchError>>;

    /// Sets a key, whatever it was, for as long as the answer is held. `ttl` is whole seconds, at least 2, and how
    /// long the key may outlive a process that died; a change of etcd's leader begins it anew.
    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>>;

    /// Takes advertisements back, finishes what was begun and lets go of files and connections. Later calls
    /// fail as unavailable.
    fn close(&self) -> Boxed<'_, ()>;
}

/// What two texts begin with alike.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b);
    let end = same.map_or(one.len().min(other.len()), |((at, _), _)| at);
    &one[..end]
}
