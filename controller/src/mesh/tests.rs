use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cframe_pki::identity::Label;
use cframe_protocol::v1::Settings;
use cframe_store::{
    Op, Revision, Store, Txn,
    faulty::{Faults, FaultyStore},
    redb::Redb,
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

/// A replica that follows the store until the test ends.
struct FollowedStore {
    replica: Arc<Replica>,
    /// The store behind the faults.
    store: Arc<dyn Store>,
    faults: Arc<Faults>,
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
        let store: Arc<dyn Store> = Arc::new(Redb::open(&data.store()).unwrap());
        let faults = Arc::new(Faults::default());
        let faulty = FaultyStore::new(Arc::clone(&store), Arc::clone(&faults));
        let clock: Clock = Arc::new(|| 1_800_000_000);
        let mut replica =
            Replica::open(Arc::new(faulty), clock, initial.name.clone(), Retention::default())
                .await
                .unwrap();
        replica.following.grace = Duration::from_secs(1);
        let replica = Arc::new(replica.comparing_every(Duration::from_millis(20)));
        let stop = CancellationToken::new();
        let (follower, stopped) = (Arc::clone(&replica), stop.clone());
        tokio::spawn(async move { follower.follow(stopped).await });
        Self { replica, store, faults, stop, _directory: directory }
    }

    async fn put(&self, key: Key, value: Vec<u8>) -> Revision {
        let ops = vec![Op::Put { key: key.to_string(), value }];
        self.store.commit(Txn { compares: Vec::new(), ops }).await.unwrap()
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
        self.store.commit(txn).await.unwrap();
    }

    fn lists(&self) -> usize {
        self.faults.lists.load(Ordering::SeqCst)
    }

    /// Waits until a list has read the store and waits for the returned guard to be dropped.
    async fn list_waits(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let gate = self.faults.list_gate.lock().await;
        self.until(|_| self.faults.waiting_lists.load(Ordering::SeqCst) == 1).await;
        gate
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
    test.faults.watches_drop.store(true, Ordering::SeqCst);
    test.add("two").await;
    test.until(|replica| has(replica, "two")).await;
    assert!(test.counted("cframe_controller_relist_differences_total 1"));
    // And the watch continues from there.
    test.faults.watches_drop.store(false, Ordering::SeqCst);
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
    let gate = test.list_waits().await;
    test.add("comes").await;
    test.add("changes").await;
    test.remove("goes").await;
    test.until(|replica| has(replica, "comes") && !has(replica, "goes")).await;
    // When the next list starts, this comparison has ended.
    let lists = test.lists();
    drop(gate);
    test.until(|_| test.lists() > lists).await;
    assert!(test.counted("cframe_controller_relist_differences_total 0"));
    assert!(
        has(&test.replica, "stays") && has(&test.replica, "comes") && !has(&test.replica, "goes")
    );

    // What the watch has omitted is found although memory is ahead of the list.
    let gate = test.list_waits().await;
    test.faults.watches_drop.store(true, Ordering::SeqCst);
    test.remove("stays").await;
    test.add("missed").await;
    test.until(|_| test.faults.dropped_batches.load(Ordering::SeqCst) == 2).await;
    test.faults.watches_drop.store(false, Ordering::SeqCst);
    // That list is older. The next one has the changes so far, and none of the following.
    drop(gate);
    let gate = test.list_waits().await;
    test.add("seen").await;
    test.until(|replica| has(replica, "seen")).await;
    assert!(has(&test.replica, "stays") && !has(&test.replica, "missed"));
    let lists = test.lists();
    drop(gate);
    test.until(|_| test.lists() > lists).await;
    assert!(test.counted("cframe_controller_relist_differences_total 2"));
    test.until(|replica| has(replica, "missed") && !has(replica, "stays")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_list_is_refused_unless_its_epoch_is_later() {
    let test = FollowedStore::start().await;
    let old = test.store.list(ROOT).await.unwrap();
    test.add("one").await;
    test.until(|replica| has(replica, "one")).await;
    let applied = test.replica.read(|state| state.revision);
    *test.faults.stale_list.lock().unwrap() = Some(old.clone());
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
    *test.faults.stale_list.lock().unwrap() = Some(restored);
    test.until(|replica| replica.read(|state| state.mesh.record.epoch) == epoch).await;
    assert!(!has(&test.replica, "one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_emptied_takes_nothing_from_the_edges() {
    let test = FollowedStore::start().await;
    test.add("one").await;
    test.until(|replica| has(replica, "one")).await;
    let all = test.store.list(ROOT).await.unwrap().entries;
    let ops = all.into_iter().map(|entry| Op::Delete { key: entry.key }).collect();
    test.store.commit(Txn { compares: Vec::new(), ops }).await.unwrap();
    test.until(|replica| {
        replica.store_problem().is_some_and(|problem| problem.contains("no mesh"))
    })
    .await;
    assert!(has(&test.replica, "one"));
}
