//! The replicas of two controllers on one etcd whose members fail.

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
    clock::Clock,
    decide::{call::Lane, draft::Draft},
    mesh::Replica,
    model::record::{EdgeRecord, Key, NamespaceRecord},
};
use cframe_pki::identity::Label;
use cframe_protocol::v1::Version;
use cframe_store::{Store, etcd::Etcd};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    etcd::EtcdCluster,
    mesh::TestMesh,
    wait::{TIMEOUT, until},
    writes::key,
};

const NAMESPACE: &str = "prod";

/// A controller's replica, which follows the store until it is dropped. A task reads it all the time, and checks that it
/// never goes back.
struct Follower {
    replica: Arc<Replica>,
    stop: CancellationToken,
    reads: Arc<AtomicU64>,
}

impl Follower {
    async fn start(store: Arc<dyn Store>) -> Self {
        let clock: Clock = Arc::new(cframe_pki::unix_now);
        let replica = Replica::open(store, clock, "one".parse().unwrap(), Retention::default())
            .await
            .unwrap();
        let replica = Arc::new(replica.comparing_every(Duration::from_secs(1)));
        let (stop, reads) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        tokio::spawn({
            let (replica, stop) = (Arc::clone(&replica), stop.clone());
            async move { replica.follow(stop).await }
        });
        tokio::spawn({
            let (replica, stop, reads) = (Arc::clone(&replica), stop.clone(), Arc::clone(&reads));
            async move {
                let (mut revision, mut version) = (0, Version::default());
                while !stop.is_cancelled() {
                    let at = replica.read(|state| (state.revision, state.version(&namespace())));
                    let now = at.1.unwrap_or(version);
                    assert!(at.0 >= revision && now.at_least(&version), "the state went back");
                    (revision, version) = (at.0, now);
                    reads.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(2)).await;
                }
            }
        });
        Self { replica, stop, reads }
    }

    fn edges(&self) -> BTreeSet<String> {
        self.replica
            .read(|state| {
                let found = state.namespaces.get(&namespace());
                found.map(|found| found.edges.keys().map(ToString::to_string).collect())
            })
            .unwrap_or_default()
    }

    fn version(&self) -> Version {
        self.replica.read(|state| state.version(&namespace())).unwrap_or_default()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn namespace() -> Label {
    NAMESPACE.parse().unwrap()
}

fn act() -> Act {
    Act::new(Who::Local(0), "test")
}

async fn add_namespace(replica: &Replica) {
    let (act, lane) = (act(), Lane::Namespace(namespace()));
    let added = replica.write(&lane, &act, |_| {
        let mut draft = Draft::default();
        let record = NamespaceRecord {
            description: String::new(),
            settings: Default::default(),
            revision: 1,
        };
        draft.compare(Key::Namespace(namespace()), 0);
        draft.put(Key::Namespace(namespace()), &record);
        Ok((draft, ()))
    });
    added.await.unwrap();
}

/// Adds an edge as `edge add` does. Returns whether the store acknowledged it.
async fn add_edge(replica: &Replica, name: &str) -> bool {
    let name: Label = name.parse().unwrap();
    let edge = EdgeRecord::default();
    let (act, lane) = (act(), Lane::Namespace(namespace()));
    let added = replica.write(&lane, &act, |state| {
        let found = &state.namespaces[&namespace()];
        let mut draft = Draft::within(&namespace(), found);
        draft.compare(Key::Edge(namespace(), name.clone()), 0);
        draft.put(Key::Edge(namespace(), name.clone()), &edge);
        draft.bump_namespace(&namespace(), found);
        Ok((draft, ()))
    });
    added.await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_ends_at_the_newest_state_and_none_goes_back() {
    let mut cluster = EtcdCluster::start(3).await;
    let stores = [cluster.store_of(&[0, 1, 2]), cluster.store_of(&[1, 2, 0])];
    let address = "192.0.2.1:58422".parse().unwrap();
    let _mesh = TestMesh::init_in(&*stores[0], TempDir::new().unwrap(), "one", address).await;
    let followers =
        [Follower::start(stores[0].clone()).await, Follower::start(stores[1].clone()).await];
    add_namespace(&followers[0].replica).await;
    until(async || followers[1].version() == followers[0].version()).await;

    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for (index, follower) in followers.iter().enumerate() {
        writers.spawn(write_until(stop.clone(), Arc::clone(&follower.replica), index));
    }
    grows(&followers).await;
    disturb(&mut cluster, &followers).await;

    stop.cancel();
    let written = timeout(TIMEOUT * 2, writers.join_all()).await.unwrap();
    until(async || followers[0].version() == followers[1].version()).await;
    let stored = edges_in(&stores[0]).await;
    until(async || followers.iter().all(|one| one.edges() == stored)).await;
    for (added, tried) in &written {
        assert!(added.is_subset(&stored), "an acknowledged write was lost");
        println!("{} of {tried} writes acknowledged", added.len());
    }
    for follower in &followers {
        assert!(follower.reads.load(Ordering::Relaxed) > 100, "nobody read the state");
        let text = follower.replica.metrics.text();
        let line =
            |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        println!("{}", line("cframe_controller_watch_restarts_total"));
        assert_eq!(
            line("cframe_controller_relist_differences_total"),
            "cframe_controller_relist_differences_total 0"
        );
    }
}

/// Adds edges until it is stopped. Returns the edges that were acknowledged, and how many it tried.
async fn write_until(
    stop: CancellationToken,
    replica: Arc<Replica>,
    writer: usize,
) -> (BTreeSet<String>, usize) {
    let (mut added, mut tried) = (BTreeSet::new(), 0);
    while !stop.is_cancelled() {
        tried += 1;
        let name = format!("e{writer}-{tried}");
        if add_edge(&replica, &name).await {
            added.insert(name);
        }
    }
    (added, tried)
}

/// Waits until the first replica has five more edges of each writer.
async fn grows(followers: &[Follower; 2]) {
    let count = |writer: &str| {
        let edges = followers[0].edges();
        edges.iter().filter(|name| name.starts_with(writer)).count()
    };
    let before = ["e0-", "e1-"].map(count);
    until(async || {
        ["e0-", "e1-"].map(count).iter().zip(before).all(|(now, before)| *now >= before + 5)
    })
    .await;
}

/// Has members of etcd fail, one way after the other. Writes must succeed again after each.
async fn disturb(cluster: &mut EtcdCluster, followers: &[Follower; 2]) {
    // The member that one of them watches is frozen.
    cluster.members[0].freeze();
    grows(followers).await;
    cluster.members[0].thaw();
    cluster.ready().await;
    // The leader is killed.
    let leader = cluster.leader().await.unwrap();
    cluster.members[leader].kill();
    grows(followers).await;
    cluster.members[leader].start();
    cluster.ready().await;
    // All members are restarted, and the revisions from which the watches would go on are compacted.
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
    grows(followers).await;
}

/// The edges that are in the store.
async fn edges_in(store: &Etcd) -> BTreeSet<String> {
    let listed = store.list(&key("edges/")).await.unwrap().entries;
    listed.iter().map(|entry| entry.key.rsplit('/').next().unwrap().to_owned()).collect()
}
