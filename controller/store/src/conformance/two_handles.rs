//! What two handles to one store must do.

use std::sync::Arc;

use tokio::{task::JoinSet, time::timeout};

use super::{advertise::advertise, *};

/// By the watch, and by a list after the write's answer, in both directions.
pub(super) async fn a_write_through_one_handle_is_seen_through_the_other(
    one: Arc<dyn Store>,
    other: Arc<dyn Store>,
) {
    let from = one.list(PREFIX).await.expect("a list").revision;
    let mut watches = [
        one.watch(PREFIX, from).await.expect("a watch"),
        other.watch(PREFIX, from).await.expect("a watch"),
    ];
    for round in 0..10 {
        let (writer, reader) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let text = round.to_string();
        let revision = commit(writer, [], [put("a", &text)]).await;
        let view = reader.list(PREFIX).await.expect("a list");
        assert!(view.revision >= revision, "a list without an acknowledged write");
        assert_eq!(contents(reader, "").await["a"], text);
        for watch in &mut watches {
            let batch = timeout(TIMEOUT, watch.next()).await.expect("in time").expect("a batch");
            assert_eq!(batch.revision, revision);
        }
    }
}

/// Sixty-four writers of overlapping prefixes, half through each handle. As for edges of a namespace, each compares the
/// namespace's record and writes it.
pub(super) async fn one_of_the_overlapping_writers_through_two_handles_wins(
    one: Arc<dyn Store>,
    other: Arc<dyn Store>,
) {
    for round in 0..4 {
        let space = format!("namespaces/{round}");
        let made = commit(&one, [], [put(&space, "0")]).await;
        let mut writers = JoinSet::new();
        for writer in 0..64 {
            let store = Arc::clone(if writer % 2 == 0 { &one } else { &other });
            let space = space.clone();
            writers.spawn(async move {
                let edge = format!("edges/{round}/{writer}");
                let ops = vec![put(&space, "1"), put(&edge, "10.0.0.0/8")];
                let compares = vec![compare(&space, made), compare(&edge, 0)];
                store.commit(Txn { compares, ops }).await
            });
        }
        let (mut wins, mut conflicts) = (0, 0);
        for outcome in writers.join_all().await {
            match outcome {
                Ok(_) => wins += 1,
                Err(CommitError::Conflict(key)) => {
                    assert_eq!(key, format!("{PREFIX}{space}"));
                    conflicts += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((wins, conflicts), (1, 63));
        for store in [&one, &other] {
            assert_eq!(contents(store, &format!("edges/{round}/")).await.len(), 1);
        }
    }
}

pub(super) async fn counters_through_two_handles_lose_no_increment(
    one: Arc<dyn Store>,
    other: Arc<dyn Store>,
) {
    const EACH: usize = 20;
    let mut writers = JoinSet::new();
    for store in [&one, &other, &one, &other] {
        let store = Arc::clone(store);
        writers.spawn(async move {
            for _ in 0..EACH {
                while !increment(&store).await {}
            }
        });
    }
    timeout(TIMEOUT, writers.join_all()).await.expect("the writers end");
    let expected = (4 * EACH).to_string();
    assert_eq!(contents(&other, "").await, [("counter", expected.as_str())].map(owned).into());
}

/// Both the key and its deletion.
pub(super) async fn what_one_handle_advertises_the_other_sees(
    one: Arc<dyn Store>,
    other: Arc<dyn Store>,
) {
    let from = other.list(PREFIX).await.expect("a list").revision;
    let mut watch = other.watch(PREFIX, from).await.expect("a watch");
    let held = advertise(&one, "alive/one").await;
    let batch = timeout(TIMEOUT, watch.next()).await.expect("in time").expect("a batch");
    assert_eq!(batch.changes, [(format!("{PREFIX}alive/one"), Some(b"here".to_vec()))]);
    drop(held);
    let batch = timeout(TTL / 2, watch.next()).await.expect("at once").expect("a batch");
    assert_eq!(batch.changes, [(format!("{PREFIX}alive/one"), None)]);
}
