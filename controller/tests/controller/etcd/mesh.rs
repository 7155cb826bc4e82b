//! Two controllers' states on one etcd, whatever happens to its members.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cframe_controller::{
    audit::{Act, Retention, Who},
    cli::{DataDir, Initial, initialise_in},
    decide::call::Lane,
    decide::draft::Draft,
    mesh::Replica,
    model::record::{EdgeRecord, Key, NamespaceRecord},
};
use cframe_pki::identity::Label;
use cframe_protocol::v1::Version;
use cframe_store::Store;
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, PATIENCE, until};

const SPACE: &str = "prod";

/// A controller's state, followed until the test ends, and looked at all the time.
struct Controller {
    mesh: Arc<Replica>,
    stop: CancellationToken,
    looks: Arc<AtomicU64>,
}

impl Controller {
    async fn start(store: Arc<dyn Store>) -> Self {
        let clock: cframe_controller::clock::Clock = Arc::new(cframe_pki::unix_now);
        let mesh = Replica::open(store, clock, "one".parse().unwrap(), Retention::default())
            .await
            .unwrap();
        let mesh = Arc::new(mesh.comparing_every(Duration::from_secs(1)));
        let (stop, looks) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        tokio::spawn({
            let (mesh, stop) = (Arc::clone(&mesh), stop.clone());
            async move { mesh.follow(stop).await }
        });
        tokio::spawn({
            let (mesh, stop, looks) = (Arc::clone(&mesh), stop.clone(), Arc::clone(&looks));
            async move {
                let (mut revision, mut version) = (0, Version::default());
                while !stop.is_cancelled() {
                    let at = mesh.read(|state| (state.revision, state.version(&space())));
                    let now = at.1.unwrap_or(version);
                    assert!(at.0 >= revision && now.at_least(&version), "the state went back");
                    (revision, version) = (at.0, now);
                    looks.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        Self { mesh, stop, looks }
    }

    fn edges(&self) -> BTreeSet<String> {
        self.mesh.read(|state| {
            let space = state.namespaces.get(&space());
            space
                .map(|space| space.edges.keys().map(ToString::to_string).collect())
                .unwrap_or_default()
        })
    }

    fn version(&self) -> Version {
        self.mesh.read(|state| state.version(&space())).unwrap_or_default()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn space() -> Label {
    SPACE.parse().unwrap()
}

async fn init(store: &dyn Store, directory: &TempDir) {
    let data = DataDir::new(directory.path().join("data"));
    let initial = Initial {
        mesh: "m.test".parse().unwrap(),
        name: "one".parse().unwrap(),
        admin: "root".parse().unwrap(),
        addresses: vec!["192.0.2.1:58422".parse().unwrap()],
    };
    initialise_in(&data, &initial, store).await.unwrap();
}

fn act() -> Act {
    Act::new(Who::Local(0), "test")
}

async fn add_space(mesh: &Replica) {
    let act = act();
    let lane = Lane::Namespace(space());
    let added = mesh.write(&lane, &act, |_| {
        let mut draft = Draft::default();
        let record = NamespaceRecord {
            description: String::new(),
            settings: Default::default(),
            revision: 1,
        };
        draft.compare(Key::Namespace(space()), 0);
        draft.put(Key::Namespace(space()), &record);
        Ok((draft, ()))
    });
    added.await.unwrap();
}

/// As `edge add` does.
async fn add_edge(mesh: &Replica, name: &str) -> bool {
    let name: Label = name.parse().unwrap();
    let edge = EdgeRecord { description: String::new(), cidrs: Vec::new(), endpoints: Vec::new() };
    let act = act();
    let lane = Lane::Namespace(space());
    let added = mesh.write(&lane, &act, |state| {
        let found = &state.namespaces[&space()];
        let mut draft = Draft::within(&space(), found);
        draft.compare(Key::Edge(space(), name.clone()), 0);
        draft.put(Key::Edge(space(), name.clone()), &edge);
        draft.bump_namespace(&space(), found);
        Ok((draft, ()))
    });
    added.await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_state_ends_at_the_newest_and_none_goes_back() {
    let mut cluster = Cluster::start(3).await;
    let directory = TempDir::new().unwrap();
    let stores = [cluster.store_of(&[0, 1, 2]), cluster.store_of(&[1, 2, 0])];
    init(&*stores[0], &directory).await;
    let controllers =
        [Controller::start(stores[0].clone()).await, Controller::start(stores[1].clone()).await];
    add_space(&controllers[0].mesh).await;
    until(PATIENCE, async || controllers[1].version() == controllers[0].version()).await;

    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for (index, controller) in controllers.iter().enumerate() {
        let (mesh, stop) = (Arc::clone(&controller.mesh), stop.clone());
        writers.spawn(async move {
            let (mut added, mut tried) = (BTreeSet::new(), 0);
            while !stop.is_cancelled() {
                tried += 1;
                let name = format!("e{index}-{tried}");
                if add_edge(&mesh, &name).await {
                    added.insert(name);
                }
            }
            (added, tried)
        });
    }
    // Through both.
    let grows = async |controllers: &[Controller; 2]| {
        let count = |writer: &str| {
            let edges = controllers[0].edges();
            edges.iter().filter(|name| name.starts_with(writer)).count()
        };
        let before = ["e0-", "e1-"].map(count);
        until(PATIENCE, async || {
            ["e0-", "e1-"].map(count).iter().zip(before).all(|(now, before)| *now >= before + 5)
        })
        .await;
    };
    grows(&controllers).await;
    // The member that one of them watches stands still.
    cluster.members[0].freeze();
    grows(&controllers).await;
    cluster.members[0].thaw();
    cluster.ready().await;
    // The leader is killed.
    let leader = cluster.leader().await.unwrap();
    cluster.members[leader].kill();
    grows(&controllers).await;
    cluster.members[leader].start();
    cluster.ready().await;
    // What they would go on from is compacted while nobody of them hears anything; then all are restarted.
    for member in &cluster.members {
        member.freeze();
    }
    for member in &mut cluster.members {
        member.kill();
        member.start();
    }
    cluster.ready().await;
    let mut client = cluster.client(0).await;
    let revision = client.get("/", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    grows(&controllers).await;

    stop.cancel();
    let written = timeout(PATIENCE * 2, writers.join_all()).await.unwrap();
    until(PATIENCE, async || controllers[0].version() == controllers[1].version()).await;
    let listed = stores[0].list("/cframe/v1/edges/").await.unwrap();
    let listed: BTreeSet<String> = listed
        .entries
        .iter()
        .map(|entry| entry.key.rsplit('/').next().unwrap().to_owned())
        .collect();
    until(PATIENCE, async || controllers.iter().all(|one| one.edges() == listed)).await;
    for (added, tried) in &written {
        assert!(added.is_subset(&listed), "an acknowledged write was lost");
        println!("{} of {tried} writes acknowledged", added.len());
    }
    for controller in &controllers {
        assert!(controller.looks.load(Ordering::Relaxed) > 100, "nobody looked");
        let text = controller.mesh.metrics.text();
        let line =
            |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        println!("{}", line("cframe_controller_watch_restarts_total"));
        assert_eq!(
            line("cframe_controller_relist_differences_total"),
            "cframe_controller_relist_differences_total 0"
        );
    }
}
