//! The store in etcd, for several controllers. Nothing else knows etcd.
//!
//! A revision is etcd's. Reads are linearizable, so that a list is never older than what was acknowledged to
//! anybody before it. A commit is one etcd transaction that compares modification revisions. Every call
//! has a deadline, and goes on at another member when one does not answer.
//!
//! **A commit that gets no answer** may have happened. It is repeated only if it compares a key that it
//! also writes: then at most one of the attempts can take effect. Whether an earlier one did is told by a
//! key that every commit writes beside its own, below [`MARKS`].
//!
//! doc/decisions/0012-etcd.md has what is guaranteed and what not.

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

/// etcd's `--max-txn-ops` is 128 unless its operator says otherwise, of which a commit needs one itself.
const MAX_OPS: usize = 127;
/// Entries of the first page of a list, and of any at most. For each page etcd counts all that follow: many small
/// pages of a large mesh take seconds.
const PAGE: usize = 512;
const PAGE_MOST: usize = 16_384;
/// And at least: so many of the largest values that etcd takes (1.5 MiB) fit into [`MAX_ANSWER`].
const PAGE_LEAST: usize = 32;
/// What a page is to have, judged by those before.
const PAGE_BYTES: usize = 512 << 10;
/// The largest answer that is read: a page of large values.
const MAX_ANSWER: usize = 64 << 20;
/// How often a list is begun again because etcd was compacted under it.
const LISTS: usize = 3;
/// How long the end of the background tasks is waited for.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where etcd is and how to get in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `http://HOST:PORT` or `https://HOST:PORT`, one of each member.
    pub endpoints: Vec<String>,
    /// PEM: the CAs that members' certificates are from.
    pub ca: Option<Vec<u8>>,
    /// PEM: a client's certificate with its key.
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

/// A handle to the store.
pub struct Etcd {
    members: Arc<Members>,
    marks: Arc<Marks>,
    /// Whether the members are being looked after.
    looked_after: AtomicBool,
    tasks: TaskTracker,
    closed: CancellationToken,
}

impl Etcd {
    /// A handle, once it is sure that the configuration can be used. Nothing is connected before the first call.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if an endpoint is no URL, or a certificate or key is none.
    pub async fn open(config: &Config) -> Result<Self, ReadError> {
        Members::check(config).await?;
        Self::new(config)
    }

    /// The same, of a configuration that is known to be good.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if there is no endpoint.
    pub fn new(config: &Config) -> Result<Self, ReadError> {
        Ok(Self {
            members: Arc::new(Members::new(config)?),
            marks: Arc::default(),
            looked_after: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        })
    }

    /// From the first watch on: who only makes a call or two needs none of it.
    fn look_after(&self) {
        if !self.looked_after.swap(true, Ordering::Relaxed) {
            let (members, closed) = (Arc::clone(&self.members), self.closed.clone());
            self.tasks.spawn(async move {
                let looked = async {
                    members.look().await;
                    marks::clear(&members).await;
                    members.look_on().await;
                };
                closed.run_until_cancelled(looked).await;
            });
        }
    }

    /// Unless the store is closed, also while the call runs.
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
        for _ in 0..LISTS {
            match self.pages(prefix).await {
                Ok(view) => return Ok(view),
                Err(ListError::Compacted(fault)) => last = fault,
                Err(ListError::Other(error)) => return Err(error),
            }
        }
        Err(ReadError::Unavailable(last))
    }

    async fn range(&self, wanted: &Page) -> Result<View, ReadError> {
        let limit = i64::try_from(wanted.limit).unwrap_or(i64::MAX);
        let order = if wanted.from_end { SortOrder::Descend } else { SortOrder::Ascend };
        let mut options = if wanted.start >= wanted.end || limit == 0 {
            // To etcd 0 is no limit, and a range that is none a fault: only the revision is asked for.
            GetOptions::new().with_count_only()
        } else {
            let range = GetOptions::new().with_range(wanted.end.as_str()).with_limit(limit);
            range.with_sort(SortTarget::Key, order)
        };
        if !wanted.values {
            options = options.with_keys_only();
        }
        let found = self.members.read(|client| {
            let (mut kv, key, options) = (kv(&client), wanted.start.as_str(), options.clone());
            async move { kv.get(key, Some(options)).await }
        });
        let mut found = found.await.map_err(|fault| ReadError::Unavailable(fault.text))?;
        let revision = found.header().map_or(0, |header| unsigned(header.revision()));
        let entries = found.take_kvs().into_iter().map(entry).collect::<Result<_, _>>()?;
        Ok(View { revision, entries })
    }

    /// The first page decides the revision, the others are of the same.
    async fn pages(&self, prefix: &str) -> Result<View, ListError> {
        let end = range_end(prefix);
        let mut key = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
        let mut view: Option<View> = None;
        let (mut size, mut most) = (PAGE, PAGE_MOST);
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
                // The entries are larger than those before; or the path is slow, over which the first page came.
                Err(fault)
                    if size > PAGE_LEAST
                        && (fault.fate == Fate::TooLarge
                            || fault.fate == Fate::Unknown && view.is_some()) =>
                {
                    most = (size / 4).max(PAGE_LEAST);
                    size = most;
                    continue;
                }
                page => page?,
            };
            let revision = page.header().map_or(0, |header| unsigned(header.revision()));
            let view = view.get_or_insert(View { revision, entries: Vec::new() });
            let more = page.more();
            let found = page.take_kvs();
            let bytes = found.iter().map(|found| found.key().len() + found.value().len()).sum();
            size = page_size(found.len(), bytes).min(most);
            for found in found {
                view.entries.push(entry(found)?);
            }
            let Some(last) = view.entries.last().filter(|_| more) else {
                return Ok(std::mem::replace(view, View { revision, entries: Vec::new() }));
            };
            // The next key that there can be.
            key = [last.key.as_bytes(), &[0]].concat();
        }
    }
}

/// Entries of the next page, by those of this one and their bytes.
fn page_size(entries: usize, bytes: usize) -> usize {
    (PAGE_BYTES * entries.max(1) / bytes.max(1)).clamp(PAGE_LEAST, PAGE_MOST)
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
        self.look_after();
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
            let (held, keeper) = lease::hold(Arc::clone(&self.members), lease, given);
            let closed = self.closed.clone();
            self.tasks.spawn(keeper.run(closed));
            Ok(Box::new(held) as Box<dyn Advertisement>)
        };
        Box::pin(self.unless_closed(advertised, CommitError::Unavailable))
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async {
            self.closed.cancel();
            self.tasks.close();
            if tokio::time::timeout(FAREWELL, self.tasks.wait()).await.is_err() {
                tracing::debug!("etcd was left without a goodbye; leases expire by themselves");
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
    /// What was being read is not kept any more.
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
        ReadError::Corrupt(format!("the key {shown:?} is not text"))
    })
}

fn kv(client: &etcd_client::Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_ANSWER)
}

/// The first key after all that begin with `prefix`.
fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // etcd's word for "without end".
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
