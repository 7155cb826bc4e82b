use std::sync::atomic::Ordering;

use cframe_protocol::v1::Settings;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{write::PATIENCE, *};
use crate::{
    cli::{DataDir, Initial, initialise},
    record::{self, Key},
    store::{
        Op, Txn,
        faulty::{Faults, FaultyStore},
        redb::Redb,
    },
};

/// A mesh that is followed until the test ends.
struct Followed {
    mesh: Arc<Mesh>,
    /// The store behind the faults.
    store: Arc<dyn Store>,
    faults: Arc<Faults>,
    stop: CancellationToken,
    _directory: TempDir,
}

impl Followed {
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
        let mut mesh = Mesh::open(Arc::new(faulty), clock, initial.name.clone(), Keep::default())
            .await
            .unwrap();
        mesh.grace = Duration::from_secs(1);
        let mesh = Arc::new(mesh.comparing_every(Duration::from_millis(20)));
        let stop = CancellationToken::new();
        let (followed, stopped) = (Arc::clone(&mesh), stop.clone());
        tokio::spawn(async move { followed.follow(stopped).await });
        Self { mesh, store, faults, stop, _directory: directory }
    }

    async fn put(&self, key: Key, value: Vec<u8>) -> Revision {
        let ops = vec![Op::Put { key: key.to_string(), value }];
        self.store.commit(Txn { compares: Vec::new(), ops }).await.unwrap()
    }

    async fn add(&self, namespace: &str) -> Revision {
        let record = record::Namespace {
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

    /// Until a list has read what there is, and waits for this guard to go.
    async fn list_waits(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let gate = self.faults.list_gate.lock().await;
        self.until(|_| self.faults.waiting_lists.load(Ordering::SeqCst) == 1).await;
        gate
    }

    async fn until(&self, what: impl Fn(&Mesh) -> bool) {
        let waited = timeout(PATIENCE, async {
            while !what(&self.mesh) {
                sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("it comes to be");
    }

    fn counted(&self, metric: &str) -> bool {
        self.mesh.metrics.text().lines().any(|line| line == metric)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn has(mesh: &Mesh, namespace: &str) -> bool {
    let name: Label = namespace.parse().unwrap();
    mesh.read(|state| state.namespaces.contains_key(&name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_watch_left_out_is_found_by_comparing_and_counted() {
    let world = Followed::start().await;
    world.add("one").await;
    world.until(|mesh| has(mesh, "one")).await;
    assert!(world.counted("cframe_controller_relist_differences_total 0"));
    world.faults.watches_drop.store(true, Ordering::SeqCst);
    world.add("two").await;
    world.until(|mesh| has(mesh, "two")).await;
    assert!(world.counted("cframe_controller_relist_differences_total 1"));
    // And the watch goes on from there.
    world.faults.watches_drop.store(false, Ordering::SeqCst);
    world.add("three").await;
    world.until(|mesh| has(mesh, "three")).await;
    assert!(world.counted("cframe_controller_relist_differences_total 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_a_comparison_reads_the_store_waits_for_nothing_and_is_no_difference()
{
    let world = Followed::start().await;
    world.add("stays").await;
    world.add("goes").await;
    world.add("changes").await;
    world.until(|mesh| has(mesh, "changes")).await;
    let gate = world.list_waits().await;
    world.add("comes").await;
    world.add("changes").await;
    world.remove("goes").await;
    world.until(|mesh| has(mesh, "comes") && !has(mesh, "goes")).await;
    // The next list comes after what this one leads to.
    let lists = world.lists();
    drop(gate);
    world.until(|_| world.lists() > lists).await;
    assert!(world.counted("cframe_controller_relist_differences_total 0"));
    assert!(has(&world.mesh, "stays") && has(&world.mesh, "comes") && !has(&world.mesh, "goes"));

    // What the watch has left out is found though memory is ahead of the list.
    let gate = world.list_waits().await;
    world.faults.watches_drop.store(true, Ordering::SeqCst);
    world.remove("stays").await;
    world.add("unheard").await;
    world.until(|_| world.faults.dropped_batches.load(Ordering::SeqCst) == 2).await;
    world.faults.watches_drop.store(false, Ordering::SeqCst);
    // That list was before. The next has it, and nothing of what follows.
    drop(gate);
    let gate = world.list_waits().await;
    world.add("heard").await;
    world.until(|mesh| has(mesh, "heard")).await;
    assert!(has(&world.mesh, "stays") && !has(&world.mesh, "unheard"));
    let lists = world.lists();
    drop(gate);
    world.until(|_| world.lists() > lists).await;
    assert!(world.counted("cframe_controller_relist_differences_total 2"));
    world.until(|mesh| has(mesh, "unheard") && !has(mesh, "stays")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_list_is_refused_unless_its_epoch_is_later() {
    let world = Followed::start().await;
    let old = world.store.list(ROOT).await.unwrap();
    world.add("one").await;
    world.until(|mesh| has(mesh, "one")).await;
    let applied = world.mesh.read(|state| state.revision);
    *world.faults.stale_list.lock().unwrap() = Some(old.clone());
    // A watch that is broken has it list; any batch would do.
    world.put(Key::Mesh, b"{}".to_vec()).await;
    world.until(|mesh| mesh.trouble().is_some_and(|trouble| trouble.contains("lost writes"))).await;
    assert!(has(&world.mesh, "one"));
    assert_eq!(world.mesh.read(|state| state.revision), applied);

    let mut restored = old;
    let epoch = world.mesh.read(|state| state.mesh.record.epoch) + 1;
    let mesh = world.mesh.read(|state| state.mesh.record.clone());
    for entry in &mut restored.entries {
        if entry.key == Key::Mesh.to_string() {
            entry.value = record::encode(&record::Mesh { epoch, ..mesh.clone() });
        }
    }
    *world.faults.stale_list.lock().unwrap() = Some(restored);
    world.until(|mesh| mesh.read(|state| state.mesh.record.epoch) == epoch).await;
    assert!(!has(&world.mesh, "one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_emptied_takes_nothing_from_the_edges() {
    let world = Followed::start().await;
    world.add("one").await;
    world.until(|mesh| has(mesh, "one")).await;
    let all = world.store.list(ROOT).await.unwrap().entries;
    let ops = all.into_iter().map(|entry| Op::Delete { key: entry.key }).collect();
    world.store.commit(Txn { compares: Vec::new(), ops }).await.unwrap();
    world.until(|mesh| mesh.trouble().is_some_and(|trouble| trouble.contains("no mesh"))).await;
    assert!(has(&world.mesh, "one"));
}
