//! What the store does when parts of etcd fail.

use std::{sync::Arc, time::Duration};

use cframe_store::{CommitError, Op, ReadError, Store, WatchError, etcd::MARKS};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    etcd::{EtcdCluster, EtcdOptions, network},
    wait::{TIMEOUT, in_time, until},
    writes::{PREFIX, compared, key, put, uncompared, write},
};

/// A dead watch ends within this.
const WATCH_LIMIT: Duration = Duration::from_secs(10);
/// Writes succeed again within this.
const WRITE_LIMIT: Duration = Duration::from_secs(3);

/// All three members, starting with this one.
fn order(first: usize) -> [usize; 3] {
    [first, (first + 1) % 3, (first + 2) % 3]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_on_a_frozen_member_ends() {
    let cluster = EtcdCluster::start(3).await;
    let leader = cluster.leader().await.unwrap();
    let victim = (leader + 1) % 3;
    let store = cluster.store_of(&order(victim));
    let from = write(&*store, "a", "1").await.unwrap();
    let mut watch = store.watch(PREFIX, from).await.unwrap();
    // A quiet watch survives for longer than it takes to check whether it is alive.
    assert!(timeout(Duration::from_secs(7), watch.next()).await.is_err(), "a quiet watch ended");

    cluster.members[victim].freeze();
    let start = Instant::now();
    let end = timeout(WATCH_LIMIT, watch.next()).await.expect("noticed in time");
    assert!(matches!(end, Err(WatchError::Ended(_))), "{end:?}");
    println!("dead watch noticed after {:?}", start.elapsed());
    // What follows uses another member, at once.
    let start = Instant::now();
    let seen = write(&*store, "a", "2").await.unwrap();
    let mut watch = store.watch(PREFIX, from).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, seen);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    cluster.members[victim].thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_majority_ends_its_watches_and_takes_no_writes() {
    let cluster = EtcdCluster::start(3).await;
    let store = cluster.store_of(&[0]);
    let from = write(&*store, "a", "1").await.unwrap();
    let mut watch = store.watch(PREFIX, from).await.unwrap();
    cluster.members[1].freeze();
    cluster.members[2].freeze();
    let start = Instant::now();
    let end = timeout(WATCH_LIMIT, watch.next()).await.expect("noticed in time");
    assert!(matches!(end, Err(WatchError::Ended(_))), "{end:?}");
    println!("watch at a member without a leader ended after {:?}", start.elapsed());
    let start = Instant::now();
    let error = write(&*store, "a", "2").await.unwrap_err();
    assert!(matches!(error, CommitError::Unavailable(_)), "{error:?}");
    let error = store.list(PREFIX).await.unwrap_err();
    assert!(matches!(error, ReadError::Unavailable(_)), "{error:?}");
    assert!(start.elapsed() < TIMEOUT, "a call that hangs");
    cluster.members[1].thaw();
    cluster.members[2].thaw();
    let back = until(async || write(&*store, "a", "3").await.is_ok()).await;
    println!("writes back {back:?} after a majority was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_after_the_leader_is_killed() {
    let mut cluster = EtcdCluster::start(3).await;
    // Once through the leader, once through another member.
    for through in [0, 1] {
        let leader = cluster.leader().await.unwrap();
        let store = cluster.store_of(&order((leader + through) % 3));
        let modified = write(&*store, "a", "1").await.unwrap();
        cluster.members[leader].kill();
        let start = Instant::now();
        store.commit(compared("a", "2", modified)).await.unwrap();
        let took = start.elapsed();
        println!("leader killed, through member +{through}: writes back after {took:?}");
        assert!(took <= WRITE_LIMIT, "{took:?}");
        cluster.members[leader].start();
        cluster.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_after_all_members_are_restarted() {
    let mut cluster = EtcdCluster::start(3).await;
    let store = cluster.store();
    let modified = write(&*store, "a", "1").await.unwrap();
    for member in &mut cluster.members {
        member.kill();
    }
    let error = store.commit(compared("a", "x", modified + 1)).await.unwrap_err();
    assert!(matches!(error, CommitError::Unavailable(_)), "{error:?}");
    for member in &mut cluster.members {
        member.start();
    }
    cluster.ready().await;
    let start = Instant::now();
    store.commit(compared("a", "2", modified)).await.unwrap();
    let took = start.elapsed();
    println!("all restarted: writes back {took:?} after a leader was");
    assert!(took <= WRITE_LIMIT, "{took:?}");
    assert_eq!(store.list(PREFIX).await.unwrap().entries[0].value, b"2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leased_key_outlives_a_change_of_leader_and_not_its_process() {
    let mut cluster = EtcdCluster::start(3).await;
    let leader = cluster.leader().await.unwrap();
    let store = cluster.store_of(&order(leader));
    let ttl = Duration::from_secs(5);
    let mut held = store.advertise(key("alive/one"), b"here".to_vec(), ttl).await.unwrap();
    let other = cluster.store_of(&order((leader + 1) % 3));
    cluster.members[leader].kill();
    assert!(timeout(ttl + ttl / 2, held.lost()).await.is_err(), "it was lost");
    assert_eq!(other.list(PREFIX).await.unwrap().entries.len(), 1);

    // As when a process is killed: nothing revokes the lease.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dying = cluster.store_of(&order((leader + 1) % 3));
    let gone = runtime.spawn(async move {
        std::mem::forget(dying.advertise(key("alive/two"), Vec::new(), ttl).await.unwrap());
        std::mem::forget(dying);
    });
    gone.await.unwrap();
    runtime.shutdown_background();
    assert_eq!(other.list(PREFIX).await.unwrap().entries.len(), 2);
    let start = Instant::now();
    until(async || other.list(PREFIX).await.unwrap().entries.len() == 1).await;
    println!("a dead process's key is gone after {:?}", start.elapsed());
    assert!(start.elapsed() <= ttl + Duration::from_secs(2), "{:?}", start.elapsed());
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_etcd_is_gone_learns_that_its_key_is_lost() {
    let mut cluster = EtcdCluster::start(1).await;
    let store = cluster.store();
    let ttl = Duration::from_secs(2);
    let mut held = store.advertise(key("alive/one"), Vec::new(), ttl).await.unwrap();
    cluster.members[0].kill();
    let start = Instant::now();
    in_time(held.lost()).await;
    assert!(start.elapsed() <= ttl * 3, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_a_compacted_revision_says_so() {
    let cluster = EtcdCluster::start(1).await;
    let store = cluster.store();
    let from = write(&*store, "a", "0").await.unwrap();
    let mut newest = from;
    for round in 0..5 {
        newest = write(&*store, "a", &round.to_string()).await.unwrap();
    }
    let compacted = i64::try_from(newest).unwrap();
    cluster.client(0).await.compact(compacted, None).await.unwrap();
    let end = match store.watch(PREFIX, from).await {
        Ok(mut watch) => watch.next().await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(end, Err(WatchError::Compacted(from)));
    let view = store.list(PREFIX).await.unwrap();
    let mut watch = store.watch(PREFIX, view.revision).await.unwrap();
    let seen = write(&*store, "a", "x").await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_revisions_arrive_whole_although_etcd_fragments_them() {
    let cluster = EtcdCluster::start(1).await;
    let store = cluster.store();
    let from = write(&*store, "a", "0").await.unwrap();
    let large = "x".repeat(11_000);
    let mut expected = Vec::new();
    for round in 0..6 {
        let ops: Vec<Op> =
            (0..120).map(|index| put(&format!("{round}/{index:03}"), &large)).collect();
        expected.push(store.commit(uncompared(ops)).await.unwrap());
    }
    // From an old revision, so that etcd sends many revisions at once: 8 MB in responses of 2 MB.
    let mut watch = store.watch(PREFIX, from).await.unwrap();
    for revision in expected {
        let batch = in_time(watch.next()).await.unwrap();
        assert_eq!((batch.revision, batch.changes.len()), (revision, 120));
        assert!(batch.changes.is_sorted());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_complete_although_small_entries_are_followed_by_large_ones() {
    let cluster = EtcdCluster::start(1).await;
    let store = cluster.store();
    let mut names = Vec::new();
    for round in 0..6 {
        let few: Vec<String> = (0..100).map(|index| format!("a/{round}/{index:03}")).collect();
        let ops = few.iter().map(|name| put(name, "x")).collect();
        store.commit(uncompared(ops)).await.unwrap();
        names.extend(few);
    }
    // More than one response can hold. By the size of the small entries, all of them would be expected to fit.
    let large = "x".repeat(1_400_000);
    for index in 0..60 {
        let name = format!("b/{index:03}");
        write(&*store, &name, &large).await.unwrap();
        names.push(name);
    }
    let listed = store.list(PREFIX).await.unwrap().entries;
    let found = listed.iter().map(|entry| entry.key.strip_prefix(PREFIX).unwrap());
    assert!(found.eq(names), "{} entries", listed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_refuses_writes_and_says_so() {
    let arguments = ["--quota-backend-bytes", "600000"].map(str::to_owned).into();
    let options = EtcdOptions { arguments, ..EtcdOptions::default() };
    let cluster = EtcdCluster::spawn(1, network(), &options);
    cluster.ready().await;
    let store = cluster.store();
    let large = "x".repeat(100_000);
    // etcd updates its size a moment later.
    let mut last = Ok(0);
    until(async || {
        last = write(&*store, "large", &large).await;
        last.is_err()
    })
    .await;
    assert!(matches!(last, Err(CommitError::Full(_))), "{last:?}");
    assert!(!store.list(PREFIX).await.unwrap().entries.is_empty(), "reads go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_too_large_is_refused_with_the_numbers() {
    let cluster = EtcdCluster::start(1).await;
    let store = cluster.store();
    let ops: Vec<Op> = (0..200).map(|index| put(&index.to_string(), "x")).collect();
    let error = store.commit(uncompared(ops)).await.unwrap_err();
    assert!(matches!(&error, CommitError::TooLarge(text) if text.contains("200")), "{error:?}");
    let huge = "x".repeat(3 << 20);
    let error = write(&*store, "huge", &huge).await.unwrap_err();
    assert!(matches!(error, CommitError::TooLarge(_)), "{error:?}");
    assert!(store.list(PREFIX).await.unwrap().entries.is_empty());
}

/// Writers add to a counter while leaders are killed: an acknowledged write happened once, a refused write did not happen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_is_lost_or_done_twice_while_leaders_are_killed() {
    const KILLS: usize = 3;
    let mut cluster = EtcdCluster::start(3).await;
    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for writer in 0..4_usize {
        let store = cluster.store_of(&order(writer % 3));
        let stop = stop.clone();
        writers.spawn(async move {
            let (mut done, mut unknown) = (0_u64, 0_u64);
            while !stop.is_cancelled() {
                let Ok(view) = store.list(&key("counter")).await else { continue };
                let (value, modified) = view.entries.first().map_or((0, 0), |entry| {
                    let text = std::str::from_utf8(&entry.value).unwrap();
                    (text.parse::<u64>().unwrap(), entry.modified)
                });
                let txn = compared("counter", &(value + 1).to_string(), modified);
                match store.commit(txn).await {
                    Ok(_) => done += 1,
                    Err(CommitError::Conflict(_)) => {}
                    Err(_) => unknown += 1,
                }
            }
            (done, unknown)
        });
    }
    let reader = cluster.store();
    let count = async || {
        let view = reader.list(&key("counter")).await.unwrap();
        let value = view.entries.first().map(|entry| entry.value.clone()).unwrap_or(b"0".to_vec());
        String::from_utf8(value).unwrap().parse::<u64>().unwrap()
    };
    for _ in 0..KILLS {
        let before = count().await;
        until(async || count().await > before + 50).await;
        let leader = cluster.leader().await.unwrap();
        cluster.members[leader].kill();
        let before = count().await;
        until(async || count().await > before + 50).await;
        cluster.members[leader].start();
        cluster.ready().await;
    }
    stop.cancel();
    let outcomes = in_time(writers.join_all()).await;
    let done: u64 = outcomes.iter().map(|outcome| outcome.0).sum();
    let unknown: u64 = outcomes.iter().map(|outcome| outcome.1).sum();
    let value = count().await;
    println!("{KILLS} leaders killed: {done} acknowledged, {unknown} unknown, counter {value}");
    assert!(done <= value && value <= done + unknown, "{done}, {unknown}, {value}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_few_marks_even_after_many_commits() {
    let cluster = EtcdCluster::start(1).await;
    let store = cluster.store();
    for round in 0..50 {
        write(&*store, "a", &round.to_string()).await.unwrap();
    }
    assert_eq!(store.list(MARKS).await.unwrap().entries.len(), 1);
    let many: Vec<_> = (0..10)
        .map(|round| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { write(&*store, &round.to_string(), "x").await.unwrap() })
        })
        .collect();
    for one in many {
        one.await.unwrap();
    }
    assert!(store.list(MARKS).await.unwrap().entries.len() <= 10);
}
