use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cframe_protocol::v1::Settings;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{write::PATIENCE, *};
use crate::{
    cli::{DataDir, Initial, initialise},
    record::{self, Key},
    store::{
        Advertisement, Batch, Boxed, CommitError, Op, Txn, View, Watch, WatchError, redb::Redb,
    },
};

/// A store whose watch leaves revisions out, and whose lists are old or take long, when told to.
struct Faulty {
    inner: Redb,
    deaf: Arc<AtomicBool>,
    kept: Mutex<Option<View>>,
    /// While somebody else has it, lists wait with what they have read.
    turn: tokio::sync::Mutex<()>,
    /// Lists that wait, and all there were.
    waiting: AtomicUsize,
    lists: AtomicUsize,
    /// Batches that the watch left out.
    left_out: Arc<AtomicUsize>,
}

struct FaultyWatch {
    inner: Box<dyn Watch>,
    deaf: Arc<AtomicBool>,
    left_out: Arc<AtomicUsize>,
}

impl Watch for FaultyWatch {
    fn next(&mut self) -> Boxed<'_, Result<Batch, WatchError>> {
        Box::pin(async {
            loop {
                let batch = self.inner.next().await?;
                if !self.deaf.load(Ordering::SeqCst) {
                    return Ok(batch);
                }
                self.left_out.fetch_add(1, Ordering::SeqCst);
            }
        })
    }
}

impl Store for Faulty {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn max_ops(&self) -> usize {
        self.inner.max_ops()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Boxed<'a, Result<View, ReadError>> {
        match self.kept.lock().unwrap().clone() {
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
            if self.kept.lock().unwrap().is_some() {
                return Err(WatchError::Ended("as the test wants it".to_owned()));
            }
            let inner = self.inner.watch(prefix, from).await?;
            let (deaf, left_out) = (Arc::clone(&self.deaf), Arc::clone(&self.left_out));
            Ok(Box::new(FaultyWatch { inner, deaf, left_out }) as Box<dyn Watch>)
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

/// A mesh that is followed until the test ends.
struct Followed {
    mesh: Arc<Mesh>,
    store: Arc<Faulty>,
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
        let inner = Redb::open(&data.store()).unwrap();
        let store = Arc::new(Faulty {
            inner,
            deaf: Arc::default(),
            kept: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            left_out: Arc::default(),
        });
        let clock: Clock = Arc::new(|| 1_800_000_000);
        let mut mesh = Mesh::open(
            Arc::clone(&store) as Arc<dyn Store>,
            clock,
            initial.name.clone(),
            Keep::default(),
        )
        .await
        .unwrap();
        mesh.grace = Duration::from_secs(1);
        let mesh = Arc::new(mesh.comparing_every(Duration::from_millis(20)));
        let stop = CancellationToken::new();
        let (followed, stopped) = (Arc::clone(&mesh), stop.clone());
        tokio::spawn(async move { followed.follow(stopped).await });
        Self { mesh, store, stop, _directory: directory }
    }

    async fn put(&self, key: Key, value: Vec<u8>) -> Revision {
        let ops = vec![Op::Put { key: key.to_string(), value }];
        self.store.inner.commit(Txn { compares: Vec::new(), ops }).await.unwrap()
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
        self.store.inner.commit(txn).await.unwrap();
    }

    fn lists(&self) -> usize {
        self.store.lists.load(Ordering::SeqCst)
    }

    /// Until a list has read what there is, and waits for this guard to go.
    async fn list_waits(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.store.turn.lock().await;
        self.until(|_| self.store.waiting.load(Ordering::SeqCst) == 1).await;
        turn
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
    world.store.deaf.store(true, Ordering::SeqCst);
    world.add("two").await;
    world.until(|mesh| has(mesh, "two")).await;
    assert!(world.counted("cframe_controller_relist_differences_total 1"));
    // And the watch goes on from there.
    world.store.deaf.store(false, Ordering::SeqCst);
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
    let turn = world.list_waits().await;
    world.add("comes").await;
    world.add("changes").await;
    world.remove("goes").await;
    world.until(|mesh| has(mesh, "comes") && !has(mesh, "goes")).await;
    // The next list comes after what this one leads to.
    let lists = world.lists();
    drop(turn);
    world.until(|_| world.lists() > lists).await;
    assert!(world.counted("cframe_controller_relist_differences_total 0"));
    assert!(has(&world.mesh, "stays") && has(&world.mesh, "comes") && !has(&world.mesh, "goes"));

    // What the watch has left out is found though memory is ahead of the list.
    let turn = world.list_waits().await;
    world.store.deaf.store(true, Ordering::SeqCst);
    world.remove("stays").await;
    world.add("unheard").await;
    world.until(|_| world.store.left_out.load(Ordering::SeqCst) == 2).await;
    world.store.deaf.store(false, Ordering::SeqCst);
    // That list was before. The next has it, and nothing of what follows.
    drop(turn);
    let turn = world.list_waits().await;
    world.add("heard").await;
    world.until(|mesh| has(mesh, "heard")).await;
    assert!(has(&world.mesh, "stays") && !has(&world.mesh, "unheard"));
    let lists = world.lists();
    drop(turn);
    world.until(|_| world.lists() > lists).await;
    assert!(world.counted("cframe_controller_relist_differences_total 2"));
    world.until(|mesh| has(mesh, "unheard") && !has(mesh, "stays")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_list_is_refused_unless_its_epoch_is_later() {
    let world = Followed::start().await;
    let old = world.store.inner.list(ROOT).await.unwrap();
    world.add("one").await;
    world.until(|mesh| has(mesh, "one")).await;
    let applied = world.mesh.read(|state| state.revision);
    *world.store.kept.lock().unwrap() = Some(old.clone());
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
    *world.store.kept.lock().unwrap() = Some(restored);
    world.until(|mesh| mesh.read(|state| state.mesh.record.epoch) == epoch).await;
    assert!(!has(&world.mesh, "one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_emptied_takes_nothing_from_the_edges() {
    let world = Followed::start().await;
    world.add("one").await;
    world.until(|mesh| has(mesh, "one")).await;
    let all = world.store.inner.list(ROOT).await.unwrap().entries;
    let ops = all.into_iter().map(|entry| Op::Delete { key: entry.key }).collect();
    world.store.inner.commit(Txn { compares: Vec::new(), ops }).await.unwrap();
    world.until(|mesh| mesh.trouble().is_some_and(|trouble| trouble.contains("no mesh"))).await;
    assert!(has(&world.mesh, "one"));
}
