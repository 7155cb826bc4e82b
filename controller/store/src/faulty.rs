//! A store for tests: it forwards to another store, and fails where a test wants it to.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::{
    Advertisement, Batch, Boxed, CommitError, Op, Page, ReadError, Revision, Store, Txn, View,
    Watch, WatchError,
};

/// The faults of a [`FaultyStore`], which a test switches on and off while the store is in use, and counters of what
/// passed through it. By default there are none.
pub struct Faults {
    /// Commits fail with [`CommitError::Full`].
    pub disk_full: AtomicBool,
    /// A watch panics when a batch arrives.
    pub watches_panic: AtomicBool,
    /// Watches deliver nothing. What arrives meanwhile is delivered afterwards.
    pub watches_held: watch::Sender<bool>,
    /// Watches leave batches out.
    pub watches_drop: AtomicBool,
    /// The batches left out so far.
    pub dropped_batches: AtomicUsize,
    /// What every list answers instead of the store's content. New watches end at once meanwhile.
    pub stale_list: Mutex<Option<View>>,
    /// While a test holds this lock, lists wait with what they have read.
    pub list_gate: tokio::sync::Mutex<()>,
    /// The lists that wait at the gate now.
    pub waiting_lists: AtomicUsize,
    /// The lists that have read the store so far.
    pub lists: AtomicUsize,
    /// A notification takes an advertised key away, as the store does when a lease expires.
    pub lease_expiry: Notify,
    /// The commits tried so far, with or without success, that have an operation of the kind that is counted.
    pub commits: AtomicUsize,
    counted: fn(&Op) -> bool,
}

impl Faults {
    /// Counts only the commits with an operation for which `counted` is true.
    pub fn counting(counted: fn(&Op) -> bool) -> Self {
        Self {
            disk_full: AtomicBool::new(false),
            watches_panic: AtomicBool::new(false),
            watches_held: watch::Sender::new(false),
            watches_drop: AtomicBool::new(false),
            dropped_batches: AtomicUsize::new(0),
            stale_list: Mutex::default(),
            list_gate: tokio::sync::Mutex::default(),
            waiting_lists: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            lease_expiry: Notify::new(),
            commits: AtomicUsize::new(0),
            counted,
        }
    }

    fn stale_list(&self) -> Option<View> {
        self.stale_list.lock().expect("no test panics with this lock").clone()
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::counting(|_| true)
    }
}

/// One handle to another store.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
    closes: bool,
    /// Whether the process that uses this handle counts as killed.
    killed: Arc<AtomicBool>,
}

impl FaultyStore {
    /// A handle that closes the inner store when it is closed.
    pub fn new(inner: Arc<dyn Store>, faults: Arc<Faults>) -> Self {
        Self { inner, faults, closes: true, killed: Arc::default() }
    }

    /// One of several handles to a store that stays open.
    pub fn shared(inner: Arc<dyn Store>, faults: Arc<Faults>) -> Self {
        Self { closes: false, ..Self::new(inner, faults) }
    }

    /// From now on, dropping an advertisement does not delete its key: it stays until its time to live is over, as it
    /// does when a process is killed.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
    }
}

impl Store for FaultyStore {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn problem(&self) -> Option<String> {
        self.inner.problem()
    }

    fn health(&self) -> Option<String> {
        self.inner.health()
    }

    fn max_ops(&self) -> usize {
        self.inner.max_ops()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>> {
        Box::pin(async move {
            if let Some(view) = self.faults.stale_list() {
                return Ok(view);
            }
            let view = self.inner.list(prefix).await;
            self.faults.lists.fetch_add(1, Ordering::SeqCst);
            self.faults.waiting_lists.fetch_add(1, Ordering::SeqCst);
            drop(self.faults.list_gate.lock().await);
            self.faults.waiting_lists.fetch_sub(1, Ordering::SeqCst);
            view
        })
    }

    fn page<'a>(&'a self, page: &'a Page) -> Boxed<'a, Result<View, ReadError>> {
        self.inner.page(page)
    }

    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>> {
        if self.faults.disk_full.load(Ordering::SeqCst) {
            return Box::pin(async { Err(CommitError::Full("no space left".to_owned())) });
        }
        let counted = txn.ops.iter().any(self.faults.counted);
        let committed = self.inner.commit(txn);
        Box::pin(async move {
            let result = committed.await;
            self.faults.commits.fetch_add(usize::from(counted), Ordering::SeqCst);
            result
        })
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Boxed<'a, Result<Box<dyn Watch>, WatchError>> {
        Box::pin(async move {
            if self.faults.stale_list().is_some() {
                return Err(WatchError::Ended("the test ends it".to_owned()));
            }
            let (inner, faults) = (self.inner.watch(prefix, from).await?, Arc::clone(&self.faults));
            let held = faults.watches_held.subscribe();
            Ok(Box::new(FaultyWatch { inner, next: None, faults, held }) as Box<dyn Watch>)
        })
    }

    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>> {
        Box::pin(async move {
            let inner = Some(self.inner.advertise(key, value, ttl).await?);
            let (faults, killed) = (Arc::clone(&self.faults), Arc::clone(&self.killed));
            Ok(Box::new(FaultyLease { inner, ttl, faults, killed }) as Box<dyn Advertisement>)
        })
    }

    fn close(&self) -> Boxed<'_, ()> {
        if self.closes { self.inner.close() } else { Box::pin(async {}) }
    }
}

struct FaultyWatch {
    inner: Box<dyn Watch>,
    /// A batch that has arrived and is held.
    next: Option<Batch>,
    faults: Arc<Faults>,
    held: watch::Receiver<bool>,
}

impl Watch for FaultyWatch {
    fn next(&mut self) -> Boxed<'_, Result<Batch, WatchError>> {
        Box::pin(async {
            loop {
                if self.next.is_none() {
                    self.next = Some(self.inner.next().await?);
                }
                assert!(!self.faults.watches_panic.load(Ordering::SeqCst), "the test wants it");
                // An error means that the test is over.
                let _ = self.held.wait_for(|held| !held).await;
                let Some(batch) = self.next.take() else { continue };
                if !self.faults.watches_drop.load(Ordering::SeqCst) {
                    return Ok(batch);
                }
                self.faults.dropped_batches.fetch_add(1, Ordering::SeqCst);
            }
        })
    }
}

struct FaultyLease {
    /// None once the key was taken away.
    inner: Option<Box<dyn Advertisement>>,
    ttl: Duration,
    faults: Arc<Faults>,
    killed: Arc<AtomicBool>,
}

impl Advertisement for FaultyLease {
    fn lost(&mut self) -> Boxed<'_, ()> {
        Box::pin(async {
            if let Some(inner) = &mut self.inner {
                tokio::select! {
                    () = self.faults.lease_expiry.notified() => {}
                    () = inner.lost() => {}
                }
            }
            drop(self.inner.take());
        })
    }
}

impl Drop for FaultyLease {
    fn drop(&mut self) {
        if !self.killed.load(Ordering::SeqCst) {
            return;
        }
        if let Some(inner) = self.inner.take() {
            let ttl = self.ttl;
            std::thread::spawn(move || {
                std::thread::sleep(ttl);
                drop(inner);
            });
        }
    }
}
