//! The store in etcd, for several controllers.
//!
//! Revisions are etcd's. Reads are linearizable: a list has every write that was acknowledged before it. A commit is one
//! etcd transaction that compares modification revisions. Every call has a deadline, and continues at another member when
//! one does not answer.
//!
//! A commit that gets no answer may have happened. It is repeated only if it compares a key that it also writes: then at
//! most one of the attempts can take effect. Every commit also writes a key below [`MARKS`], which shows whether an earlier
//! attempt did.
//!
//! doc/decisions/0012-etcd.md says what is guaranteed and what is not.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use etcd_client::{GetOptions, KvClient, SortOrder, SortTarget};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use self::{
    error::{Fate, Fault},
    marks::Marks,
    members::Members,
};
use super::{
    Advertisement, Boxed, CommitError, Entry, Page, ReadError, Revision, Store, Txn, View, Watch,
    WatchError,
};

mod commit;
mod error;
mod lease;
mod marks;
mod members;
mod watch;

pub use marks::PREFIX as MARKS;

/// etcd's `--max-txn-ops` is 128 by default, and a commit needs one itself.
const MAX_OPS: usize = 127;
/// Entries of the first page of a list, and of any page. For each page etcd counts all entries that follow, so many small
/// pages of a large mesh take seconds.
const FIRST_PAGE: usize = 512;
const MAX_PAGE: usize = 16_384;
/// So many of the largest values that etcd takes (1.5 MiB) fit into [`MAX_ANSWER`].
const MIN_PAGE: usize = 32;
/// The size that pages should have, estimated from the page before.
const PAGE_BYTES: usize = 512 << 10;
/// Bytes of an answer: a page of large values.
const MAX_ANSWER: usize = 64 << 20;
/// A list starts again if etcd was compacted meanwhile.
const MAX_LISTS: usize = 3;
/// For the background tasks to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `http://HOST:PORT` or `https://HOST:PORT`, one of each member.
    pub endpoints: Vec<String>,
    /// PEM: the CAs of the members' certificates.
    pub ca: Option<Vec<u8>>,
    /// PEM: a client certificate and its key.
    pub identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    /// User and password.
    pub user: Option<(String, Zeroizing<String>)>,
}

impl fmt::Debug for Config {
    /// Without key and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

pub struct Etcd {
    members: Arc<Members>,
    marks: Arc<Marks>,
    /// Whether the members are being checked.
    checking: AtomicBool,
    tasks: TaskTracker,
    closed: CancellationToken,
}

impl Etcd {
    /// Checks that the configuration can be used. Nothing is connected before the first call.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if an endpoint, a certificate or the key is malformed.
    pub async fn open(config: &Config) -> Result<Self, ReadError> {
        Members::check_config(config).await?;
        Self::new(config)
    }

    /// [`open`](Self::open) without checking certificates and key.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if there is no endpoint.
    pub fn new(config: &Config) -> Result<Self, ReadError> {
        Ok(Self {
            members: Arc::new(Members::new(config)?),
            marks: Arc::default(),
            checking: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        })
    }

    /// Starts the background checks of the members, with the first watch: a command that makes a call or two does not need
    /// them.
    fn start_checking(&self) {
        if !self.checking.swap(true, Ordering::Relaxed) {
            let (members, closed) = (Arc::clone(&self.members), self.closed.clone());
            self.tasks.spawn(async move {
                let checking = async {
                    members.check_health().await;
                    marks::delete_old(&members).await;
                    members.keep_checking().await;
                };
                closed.run_until_cancelled(checking).await;
            });
        }
    }

    /// Runs a call, and aborts it when the store is closed.
    async fn unless_closed<T, E>(
        &self,
        call: impl Future<Output = Result<T, E>>,
        closed: impl Fn(String) -> E,
    ) -> Result<T, E> {
        let answer = self.closed.run_until_cancelled(call).await;
        answer.unwrap_or_else(|| Err(closed(CLOSED.to_owned())))
    }

    async fn list_all(&self, prefix: &str) -> Result<View, ReadError> {
        let mut last = String::new();
        for _ in 0..MAX_LISTS {
            match self.pages(prefix).await {
                Ok(view) => return Ok(view),
                Err(ListError::Compacted(fault)) => last = fault,
                Err(ListError::Other(error)) => return Err(error),
            }
        }
        Err(ReadError::Unavailable(last))
    }

    async fn range(&self, page: &Page) -> Result<View, ReadError> {
        let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
        let order = if page.from_end { SortOrder::Descend } else { SortOrder::Ascend };
        let mut options = if page.start >= page.end || limit == 0 {
            // For etcd, 0 means no limit and an empty range is an error, so only the revision is requested.
            GetOptions::new().with_count_only()
        } else {
            let range = GetOptions::new().with_range(page.end.as_str()).with_limit(limit);
            range.with_sort(SortTarget::Key, order)
        };
        if !page.values {
            options = options.with_keys_only();
        }
        let found = self.members.read(|client| {
            let (mut kv, key, options) = (kv(&client), page.start.as_str(), options.clone());
            async move { kv.get(key, Some(options)).await }
        });
        let mut found = found.await.map_err(|fault| ReadError::Unavailable(fault.text))?;
        let revision = found.header().map_or(0, |header| unsigned(header.revision()));
        let entries = found.take_kvs().into_iter().map(entry).collect::<Result<_, _>>()?;
        Ok(View { revision, entries })
    }

    /// All pages are of the first page's revision.
    async fn pages(&self, prefix: &str) -> Result<View, ListError> {
        let end = range_end(prefix);
        let mut key = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
        let mut view: Option<View> = None;
        let (mut size, mut max) = (FIRST_PAGE, MAX_PAGE);
        loop {
            let mut options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(size).unwrap_or(i64::MAX));
            if let Some(view) = &view {
                options = options.with_revision(signed(view.revision));
            }
            let page = self.members.read(|client| {
                let (mut kv, key, options) = (kv(&client), key.clone(), options.clone());
                async move { kv.get(key, Some(options)).await }
            });
            let mut page = match page.await {
                // These entries are larger than those before, or the network is slow although the first page came.
                Err(fault)
                    if size > MIN_PAGE
                        && (fault.fate == Fate::TooLarge
                            || fault.fate == Fate::Unknown && view.is_some()) =>
                {
                    max = (size / 4).max(MIN_PAGE);
                    size = max;
                    continue;
                }
                page => page?,
            };
            let revision = page.header().map_or(0, |header| unsigned(header.revision()));
            let view = view.get_or_insert(View { revision, entries: Vec::new() });
            let more = page.more();
            let found = page.take_kvs();
            let bytes = found.iter().map(|found| found.key().len() + found.value().len()).sum();
            size = page_size(found.len(), bytes).min(max);
            for found in found {
                view.entries.push(entry(found)?);
            }
            let Some(last) = view.entries.last().filter(|_| more) else {
                return Ok(std::mem::replace(view, View { revision, entries: Vec::new() }));
            };
            // The next possible key.
            key = [last.key.as_bytes(), &[0]].concat();
        }
    }
}

/// Entries of the next page, from the number of this page's entries and their bytes.
fn page_size(entries: usize, bytes: usize) -> usize {
    (PAGE_BYTES * entries.max(1) / bytes.max(1)).clamp(MIN_PAGE, MAX_PAGE)
}

impl Store for Etcd {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    fn health(&self) -> Option<String> {
        Some(self.members.health())
    }

    fn max_ops(&self) -> usize {
        MAX_OPS
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>> {
        Box::pin(self.unless_closed(self.list_all(prefix), ReadError::Unavailable))
    }

    fn page<'a>(&'a self, page: &'a Page) -> Boxed<'a, Result<View, ReadError>> {
        Box::pin(self.unless_closed(self.range(page), ReadError::Unavailable))
    }

    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>> {
        let committed = async move { commit::commit(&self.members, &self.marks, &txn).await };
        Box::pin(self.unless_closed(committed, CommitError::Unavailable))
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Boxed<'a, Result<Box<dyn Watch>, WatchError>> {
        self.start_checking();
        let opened = async move {
            let closed = self.closed.clone();
            let watch = watch::open(Arc::clone(&self.members), prefix, from, closed).await?;
            Ok(Box::new(watch) as Box<dyn Watch>)
        };
        Box::pin(self.unless_closed(opened, WatchError::Ended))
    }

    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>> {
        let advertised = async move {
            let (lease, given) = lease::put(&self.members, key, value, ttl).await?;
            let (advertisement, renewer) = lease::hold(Arc::clone(&self.members), lease, given);
            let closed = self.closed.clone();
            self.tasks.spawn(renewer.run(closed));
            Ok(Box::new(advertisement) as Box<dyn Advertisement>)
        };
        Box::pin(self.unless_closed(advertised, CommitError::Unavailable))
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            self.closed.cancel();
            self.tasks.close();
            if tokio::time::timeout(CLOSE_TIMEOUT, self.tasks.wait()).await.is_err() {
                tracing::debug!("closed without an answer from etcd; leases expire by themselves");
            }
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

const CLOSED: &str = "the etcd store is closed";

enum ListError {
    /// The list's revision was compacted.
    Compacted(String),
    Other(ReadError),
}

impl From<Fault> for ListError {
    fn from(fault: Fault) -> Self {
        if fault.fate == Fate::Compacted {
            return Self::Compacted(fault.text);
        }
        Self::Other(ReadError::Unavailable(fault.text))
    }
}

impl From<ReadError> for ListError {
    fn from(error: ReadError) -> Self {
        Self::Other(error)
    }
}

fn entry(found: etcd_client::KeyValue) -> Result<Entry, ReadError> {
    let modified = unsigned(found.mod_revision());
    let (key, value) = found.into_key_value();
    Ok(Entry { key: text(key)?, value, modified })
}

fn text(key: Vec<u8>) -> Result<String, ReadError> {
    String::from_utf8(key).map_err(|error| {
        let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
        ReadError::Corrupt(format!("the key {shown:?} is not UTF-8"))
    })
}

fn kv(client: &etcd_client::Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_ANSWER)
}

/// The first key after all that start with `prefix`.
fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // For etcd, this is a range without an end.
    vec![0]
}

/// etcd's revisions are positive.
fn unsigned(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or(0)
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_where_the_prefix_does() {
        assert_eq!(range_end("/cframe/v1/"), b"/cframe/v10");
        assert_eq!(range_end("a"), b"b");
        assert_eq!(range_end(""), [0]);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let user = Some(("root".to_owned(), Zeroizing::new("hunter2".to_owned())));
        let identity = Some((Vec::new(), Zeroizing::new(b"hunter3".to_vec())));
        let config = Config { user, identity, ..Config::default() };
        assert_eq!(format!("{config:?}"), "Config { endpoints: [], .. }");
    }
}
