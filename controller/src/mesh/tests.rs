use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use cframe_pki::identity::Label;
use cframe_protocol::v1::Settings;
use cframe_store::{
    Advertisement, Batch, Boxed, CommitError, Op, ReadError, Revision, Store, Txn, View, Watch,
    WatchError, redb::Redb,
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Replica, write::WATCH_TIMEOUT};
use crate::{
    audit::Retention,
    cli::{DataDir, Initial, initialise},
    clock::Clock,
    model::record::{self, Key, MeshRecord, NamespaceRecord, ROOT},
};

/// A store whose watch omits revisions, and whose lists are old or slow, when a test says so.
struct FaultyStore {
    inner: Redb,
    omitting: Arc<AtomicBool>,
    stale: Mutex<Option<View>>,
    /// While a test holds it, lists wait after they have read the store.
    turn: tokio::sync::Mutex<()>,
    /// Lists that wait.
    waiting: AtomicUsize,
    /// All lists so far.
    lists: AtomicUsize,
    /// Batches that the watch omitted.
    omitted: Arc<AtomicUsize>,
}

struct FaultyWatch {
    inner: Box<dyn Watch>,
    omitting: Arc<AtomicBool>,
    omitted: Arc<AtomicUsize>,
}

impl Watch for FaultyWatch {
    fn next(&mut self) -> Boxed<'_, Result<Batch, WatchError>> {
        Box::pin(async {
            loop {
                let batch = self.inner.next().await?;
                if !self.omitting.load(Ordering::SeqCst) {
                    return Ok(batch);
                }
                self.omitted.fetch_add(1, Ordering::SeqCst);
            }
        })
    }
}

impl Store for FaultyStore {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn max_ops(&self) -> usize {
        self.inner.max_ops()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>> {
        match self.stale.lock().unwrap().clone() {
            Some(view) => Box::pin(async { Ok(view) }),
            None => Box::pin(async move {
                let view = self.inner.list(prefix).await;
                self.lists.fetch_add(1, Ordering::SeqCst);
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let _turn = self.turn.lock().await;
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                view
            }),
        }
    }

    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Revision, CommitError>> {
        self.inner.commit(txn)
    }

    fn watch<'a>(
        &'a self,
        prefix: &'a str,
        from: Revision,
    ) -> Boxed<'a, Result<Box<dyn Watch>, WatchError>> {
        Box::pin(async move {
            if self.stale.lock().unwrap().is_some() {
                return Err(WatchError::Ended("as the test wants".to_owned()));
            }
            let inner = self.inner.watch(prefix, from).await?;
            let (omitting, omitted) = (Arc::clone(&self.omitting), Arc::clone(&self.omitted));
            Ok(Box::new(FaultyWatch { inner, omitting, omitted }) as Box<dyn Watch>)
        })
    }

    fn advertise(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Boxed<'_, Result<Box<dyn Advertisement>, CommitError>> {
        self.inner.advertise(key, value, ttl)
    }

    fn close(&self) -> Boxed<'_, ()> {
        self.inner.close()
    }
}

/// A replica that follows the store until the test ends.
struct FollowedStore {
    replica: Arc<Replica>,
    store: Arc<FaultyStore>,
    stop: CancellationToken,
    _directory: TempDir,
}

impl FollowedStore {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let data = DataDir::new(directory.path().join("data"));
        let initial = Initial {
            mesh: "m.test".parse().unwrap(),
            name: "controller".parse().unwrap(),
            admin: "root".parse().unwrap(),
            addresses: vec!["192.0.2.1:58422".parse().unwrap()],
        };
        initialise(&data, &initial).await.unwrap();
        let inner = Redb::open(&data.store()).unwrap();
        let store = Arc::new(FaultyStore {
            inner,
            omitting: Arc::default(),
            stale: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            omitted: Arc::default(),
        });
        let clock: Clock = Arc::new(|| 1_800_000_000);
        let mut replica = Replica::open(
            Arc::clone(&store) as Arc<dyn Store>,
            clock,
            initial.name.clone(),
            Retention::default(),
        )
        .await
        .unwrap();
        replica.following.grace = Duration::from_secs(1);
        let replica = Arc::new(replica.comparing_every(Duration::from_millis(20)));
        let stop = CancellationToken::new();
        let (follower, stopped) = (Arc::clone(&replica), stop.clone());
        tokio::spawn(async move { follower.follow(stopped).await });
        Self { replica, store, stop, _directory: directory }
    }

    async fn put(&self, key: Key, value: Vec<u8>) -> Revision {
        let ops = vec![Op::Put { key: key.to_string(), value }];
        self.store.inner.commit(Txn { compares: Vec::new(), ops }).await.unwrap()
    }

    async fn add(&self, namespace: &str) -> Revision {
        let record = NamespaceRecord {
            description: String::new(),
            settings: Settings::default(),
            revision: 1,
        };
        self.put(Key::Namespace(namespace.parse().unwrap()), record::encode(&record)).await
    }

    async fn remove(&self, namespace: &str) {
        let key = Key::Namespace(namespace.parse().unwrap()).to_string();
        let txn = Txn { compares: Vec::new(), ops: vec![Op::Delete { key }] };
        self.store.inner.commit(txn).await.unwrap();
    }

    fn lists(&self) -> usize {
        self.store.lists.load(Ordering::SeqCst)
    }

    /// Waits until a list has read the store and waits for the returned guard to be dropped.
    async fn list_waits(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.store.turn.lock().await;
        self.until(|_| self.store.waiting.load(Ordering::SeqCst) == 1).await;
        turn
    }

    async fn until(&self, condition: impl Fn(&Replica) -> bool) {
        let waited = timeout(WATCH_TIMEOUT, async {
            while !condition(&self.replica) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("the condition holds in time");
    }

    fn counted(&self, metric: &str) -> bool {
        self.replica.metrics.text().lines().any(|line| line == metric)
    }
}

impl Drop for FollowedStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn has(replica: &Replica, namespace: &str) -> bool {
    let name: Label = namespace.parse().unwrap();
    replica.read(|state| state.namespaces.contains_key(&name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_watch_omitted_is_found_by_comparing_and_counted() {
    let test = FollowedStore::start().await;
    test.add("one").await;
    test.until(|replica| has(replica, "one")).await;
    assert!(test.counted("cframe_controller_relist_differences_total 0"));
    test.store.omitting.store(true, Ordering::SeqCst);
    test.add("two").await;
    test.until(|replica| has(replica, "two")).await;
    assert!(test.counted("cframe_controller_relist_differences_total 1"));
    // And the watch continues from there.
    test.store.omitting.store(false, Ordering::SeqCst);
    test.add("three").await;
    test.until(|replica| has(replica, "three")).await;
    assert!(test.counted("cframe_controller_relist_differences_total 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_a_comparison_reads_the_store_waits_for_nothing_and_is_no_difference()
{
    let test = FollowedStore::start().await;
    test.add("stays").await;
    test.add("goes").await;
    test.add("changes").await;
    test.until(|replica| has(replica, "changes")).await;
    let turn = test.list_waits().await;
    test.add("comes").await;
    test.add("changes").await;
    test.remove("goes").await;
    test.until(|replica| has(replica, "comes") && !has(replica, "goes")).await;
    // When the next list starts, this comparison has ended.
    let lists = test.lists();
    drop(turn);
    test.until(|_| test.lists() > lists).await;
    assert!(test.counted("cframe_controller_relist_differences_total 0"));
    assert!(
        has(&test.replica, "stays") && has(&test.replica, "comes") && !has(&test.replica, "goes")
    );

    // What the watch has omitted is found although memory is ahead of the list.
    let turn = test.list_waits().await;
    test.store.omitting.store(true, Ordering::SeqCst);
    test.remove("stays").await;
    test.add("missed").await;
    test.until(|_| test.store.omitted.load(Ordering::SeqCst) == 2).await;
    test.store.omitting.store(false, Ordering::SeqCst);
    // That list is older. The next one has the changes so far, and none of the following.
    drop(turn);
    let turn = test.list_waits().await;
    test.add("seen").await;
    test.until(|replica| has(replica, "seen")).await;
    assert!(has(&test.replica, "stays") && !has(&test.replica, "missed"));
    let lists = test.lists();
    drop(turn);
    test.until(|_| test.lists() > lists).await;
    assert!(test.counted("cframe_controller_relist_differences_total 2"));
    test.until(|replica| has(replica, "missed") && !has(replica, "stays")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_list_is_refused_unless_its_epoch_is_later() {
    let test = FollowedStore::start().await;
    let old = test.store.inner.list(ROOT).await.unwrap();
    test.add("one").await;
    test.until(|replica| has(replica, "one")).await;
    let applied = test.replica.read(|state| state.revision);
    *test.store.stale.lock().unwrap() = Some(old.clone());
    // A broken batch ends the watch, and then the store is listed.
    test.put(Key::Mesh, b"{}".to_vec()).await;
    test.until(|replica| {
        replica.store_problem().is_some_and(|problem| problem.contains("lost writes"))
    })
    .await;
    assert!(has(&test.replica, "one"));
    assert_eq!(test.replica.read(|state| state.revision), applied);

    let mut restored = old;
    let epoch = test.replica.read(|state| state.mesh.record.epoch) + 1;
    let mesh = test.replica.read(|state| state.mesh.record.clone());
    for entry in &mut restored.entries {
        if entry.key == Key::Mesh.to_string() {
            entry.value = record::encode(&MeshRecord { epoch, ..mesh.clone() });
        }
    }
    *test.store.stale.lock().unwrap() = Some(restored);
    test.until(|replica| replica.read(|state| state.mesh.record.epoch) == epoch).await;
    assert!(!has(&test.replica, "one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_emptied_takes_nothing_from_the_edges() {
    let test = FollowedStore::start().await;
    test.add("one").await;
    test.until(|replica| has(replica, "one")).await;
    let all = test.store.inner.list(ROOT).await.unwrap().entries;
    let ops = all.into_iter().map(|entry| Op::Delete { key: entry.key }).collect();
    test.store.inner.commit(Txn { compares: Vec::new(), ops }).await.unwrap();
    test.until(|replica| {
        replica.store_problem().is_some_and(|problem| problem.contains("no mesh"))
    })
    .await;
    assert!(has(&test.replica, "one"));
}
