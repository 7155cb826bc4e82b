//! Tests that every back end of [`Store`] must pass, to be called from its own tests.
//!
//! [`all`] runs those of one handle, [`shared`] those of two handles to one store. Each test gets a store that is empty under
//! [`PREFIX`].

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use crate::{CommitError, Compare, Op, Page, Revision, Store, Txn, WatchError};

mod advertise;
mod two_handles;

use advertise::*;
use two_handles::*;

/// The suite writes only below this.
pub const PREFIX: &str = "/cframe/v1/";

const TIMEOUT: Duration = Duration::from_secs(20);

/// The shortest that every store supports.
const TTL: Duration = Duration::from_secs(2);

/// `fresh` makes an empty store for each test.
pub async fn all<F, Fut>(mut fresh: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    what_is_put_is_listed(fresh().await).await;
    a_list_is_bound_to_its_prefix(fresh().await).await;
    a_page_is_a_part_of_the_list(fresh().await).await;
    a_failed_comparison_changes_nothing(fresh().await).await;
    a_key_can_be_made_only_once(fresh().await).await;
    a_key_that_was_removed_compares_as_absent(fresh().await).await;
    revisions_grow_and_entries_carry_theirs(fresh().await).await;
    one_of_many_concurrent_writers_wins(fresh().await).await;
    counters_lose_no_increment(fresh().await).await;
    a_watch_gives_every_revision_in_order(fresh().await).await;
    a_watch_starts_after_the_given_revision(fresh().await).await;
    a_watch_sees_only_its_prefix(fresh().await).await;
    a_list_and_the_watch_after_it_leave_no_gap(fresh().await).await;
    a_large_value_and_many_effects_pass(fresh().await).await;
    a_large_list_is_of_one_revision(fresh().await).await;
    an_advertised_key_is_there_while_it_is_held(fresh().await).await;
    advertising_again_leaves_the_newer_one(fresh().await).await;
    closing_deletes_advertised_keys(fresh().await).await;
    a_closed_store_says_so(fresh().await).await;
}

/// `fresh` makes two handles to an empty store; an embedded store returns the same one twice.
pub async fn shared<F, Fut>(mut fresh: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = (Arc<dyn Store>, Arc<dyn Store>)>,
{
    let (one, other) = fresh().await;
    a_write_through_one_handle_is_seen_through_the_other(one, other).await;
    let (one, other) = fresh().await;
    one_of_the_overlapping_writers_through_two_handles_wins(one, other).await;
    let (one, other) = fresh().await;
    counters_through_two_handles_lose_no_increment(one, other).await;
    let (one, other) = fresh().await;
    what_one_handle_advertises_the_other_sees(one, other).await;
}

/// Puts come back byte for byte, ordered by key.
async fn what_is_put_is_listed(store: Arc<dyn Store>) {
    assert!(
        store.list(PREFIX).await.expect("a list").entries.is_empty(),
        "the store must start empty"
    );
    commit(&store, [], [put("b", "2"), put("a", "1"), put("c", "\u{0}\n\"ü")]).await;
    assert_eq!(
        contents(&store, "").await,
        [("a", "1"), ("b", "2"), ("c", "\u{0}\n\"ü")].map(owned).into()
    );
    commit(&store, [], [put("a", "3"), delete("b"), delete("never")]).await;
    assert_eq!(contents(&store, "").await, [("a", "3"), ("c", "\u{0}\n\"ü")].map(owned).into());
}

/// A list of `/edges/prod/` has no entry of `/edges/prod2/`.
async fn a_list_is_bound_to_its_prefix(store: Arc<dyn Store>) {
    let keys = ["edges/prod/a", "edges/prod/b", "edges/prod2/a", "edges/pro", "routes/prod/a"];
    commit(&store, [], keys.map(|key| put(key, "x"))).await;
    let listed: Vec<String> = contents(&store, "edges/prod/").await.into_keys().collect();
    assert_eq!(listed, ["edges/prod/a", "edges/prod/b"]);
    assert!(contents(&store, "edges/none/").await.is_empty());
}

/// From either end, with or without values, and never more than the limit.
async fn a_page_is_a_part_of_the_list(store: Arc<dyn Store>) {
    let keys = ["log/1", "log/2", "log/3", "log/4", "lot/1"];
    let revision = commit(&store, [], keys.map(|key| put(key, key))).await;
    let read = async |start: &str, end: &str, limit, from_end, values| {
        let (start, end) = (format!("{PREFIX}{start}"), format!("{PREFIX}{end}"));
        let page = Page { start, end, limit, from_end, values };
        let view = store.page(&page).await.expect("a page");
        assert!(view.revision >= revision);
        let entries = view.entries.into_iter().map(|entry| {
            let expected = entry.key.strip_prefix(PREFIX).expect("the prefix").to_owned();
            let value = String::from_utf8(entry.value).expect("text");
            assert_eq!(
                (value.as_str(), entry.modified),
                (if values { &*expected } else { "" }, revision)
            );
            expected
        });
        entries.collect::<Vec<_>>()
    };
    assert_eq!(read("log/", "log0", 10, false, true).await, keys[..4]);
    assert_eq!(read("log/", "log0", 2, false, true).await, keys[..2]);
    assert_eq!(read("log/", "log0", 2, true, true).await, ["log/4", "log/3"]);
    assert_eq!(read("log/2", "log/4", 10, true, false).await, ["log/3", "log/2"]);
    assert!(read("log/4", "log/2", 10, false, true).await.is_empty());
    assert!(read("log/5", "log/9", 10, true, true).await.is_empty());
}

/// All or nothing, and the conflict names the key.
async fn a_failed_comparison_changes_nothing(store: Arc<dyn Store>) {
    let first = commit(&store, [], [put("a", "1")]).await;
    commit(&store, [], [put("a", "2")]).await;
    let txn = Txn {
        compares: vec![compare("a", first)],
        ops: vec![put("a", "3"), put("b", "3"), delete("a2")],
    };
    let error = store.commit(txn).await.expect_err("the comparison must fail");
    assert_eq!(error, CommitError::Conflict(format!("{PREFIX}a")));
    assert_eq!(contents(&store, "").await, [("a", "2")].map(owned).into());
}

/// Comparing with 0 means "absent".
async fn a_key_can_be_made_only_once(store: Arc<dyn Store>) {
    commit(&store, [compare("a", 0)], [put("a", "1")]).await;
    let again = Txn { compares: vec![compare("a", 0)], ops: vec![put("a", "2")] };
    assert!(matches!(store.commit(again).await, Err(CommitError::Conflict(_))));
    assert_eq!(contents(&store, "").await, [("a", "1")].map(owned).into());
}

/// A writer that decided on a key's value must not create the key again after it was deleted.
async fn a_key_that_was_removed_compares_as_absent(store: Arc<dyn Store>) {
    let made = commit(&store, [], [put("a", "1")]).await;
    commit(&store, [compare("a", made)], [delete("a")]).await;
    let stale = Txn { compares: vec![compare("a", made)], ops: vec![put("a", "2")] };
    assert!(matches!(store.commit(stale).await, Err(CommitError::Conflict(_))));
    commit(&store, [compare("a", 0)], [put("a", "3")]).await;
}

/// Every commit has a later revision, which the entries that it wrote have too.
async fn revisions_grow_and_entries_carry_theirs(store: Arc<dyn Store>) {
    let mut last = store.list(PREFIX).await.expect("a list").revision;
    for round in 0..5 {
        let revision = commit(&store, [], [put("a", &round.to_string()), put("b", "same")]).await;
        assert!(revision > last, "{revision} after {last}");
        last = revision;
        let view = store.list(PREFIX).await.expect("a list");
        assert!(view.revision >= revision);
        assert!(view.entries.iter().all(|entry| entry.modified == revision));
    }
    let revision = commit(&store, [], [put("b", "other")]).await;
    let view = store.list(PREFIX).await.expect("a list");
    let modified: Vec<_> = view.entries.iter().map(|entry| entry.modified).collect();
    assert_eq!(modified, [last, revision]);
}

/// The comparison and the effects are one step, also under load.
async fn one_of_many_concurrent_writers_wins(store: Arc<dyn Store>) {
    let mut writers = JoinSet::new();
    for writer in 0..64 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let ops = vec![put("winner", &writer.to_string()), put(&format!("by/{writer}"), "x")];
            store.commit(Txn { compares: vec![compare("winner", 0)], ops }).await.is_ok()
        });
    }
    let wins = writers.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(wins, 1);
    assert_eq!(contents(&store, "by/").await.len(), 1, "a loser left something behind");
}

/// Read, compare, write: the loop that every edit is.
async fn counters_lose_no_increment(store: Arc<dyn Store>) {
    const WRITERS: usize = 8;
    const EACH: usize = 8;
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for _ in 0..EACH {
                while !increment(&store).await {}
            }
        });
    }
    timeout(TIMEOUT, writers.join_all()).await.expect("the writers end");
    let expected = (WRITERS * EACH).to_string();
    assert_eq!(contents(&store, "").await, [("counter", expected.as_str())].map(owned).into());
}

async fn increment(store: &Arc<dyn Store>) -> bool {
    let view = store.list(&format!("{PREFIX}counter")).await.expect("a list");
    let (value, modified) = view.entries.first().map_or((0, 0), |entry| {
        let text = std::str::from_utf8(&entry.value).expect("text");
        (text.parse::<u64>().expect("a number"), entry.modified)
    });
    let ops = vec![put("counter", &(value + 1).to_string())];
    store.commit(Txn { compares: vec![compare("counter", modified)], ops }).await.is_ok()
}

/// No revision is omitted, merged, split or reordered.
async fn a_watch_gives_every_revision_in_order(store: Arc<dyn Store>) {
    let from = store.list(PREFIX).await.expect("a list").revision;
    let mut watch = store.watch(PREFIX, from).await.expect("a watch");
    let mut expected = Vec::new();
    for round in 0..20 {
        let text = round.to_string();
        expected.push((commit(&store, [], [put("a", &text), put(&text, &text)]).await, text));
    }
    expected.push((commit(&store, [], [delete("a")]).await, String::new()));
    for (revision, text) in expected {
        let batch = timeout(TIMEOUT, watch.next()).await.expect("in time").expect("a batch");
        assert_eq!(batch.revision, revision);
        let changes: BTreeMap<_, _> = batch.changes.into_iter().collect();
        let expected = if text.is_empty() {
            [(format!("{PREFIX}a"), None)].into()
        } else {
            let value = Some(text.clone().into_bytes());
            [(format!("{PREFIX}a"), value.clone()), (format!("{PREFIX}{text}"), value)].into()
        };
        assert_eq!(changes, expected);
    }
}

/// A watch from an earlier revision gives what was after it.
async fn a_watch_starts_after_the_given_revision(store: Arc<dyn Store>) {
    let mut revisions = Vec::new();
    for round in 0..5 {
        revisions.push(commit(&store, [], [put("a", &round.to_string())]).await);
    }
    let mut watch = store.watch(PREFIX, revisions[1]).await.expect("a watch");
    for expected in &revisions[2..] {
        let batch = timeout(TIMEOUT, watch.next()).await.expect("in time").expect("a batch");
        assert_eq!(batch.revision, *expected);
    }
}

/// Other prefixes are not seen, and do not end or block the watch.
async fn a_watch_sees_only_its_prefix(store: Arc<dyn Store>) {
    let from = commit(&store, [], [put("edges/prod/a", "0")]).await;
    let mut watch = store.watch(&format!("{PREFIX}edges/prod/"), from).await.expect("a watch");
    commit(&store, [], [put("edges/prod2/a", "1")]).await;
    let seen = commit(&store, [], [put("edges/prod/a", "2"), put("routes/prod/a", "2")]).await;
    let batch = timeout(TIMEOUT, watch.next()).await.expect("in time").expect("a batch");
    assert_eq!(batch.revision, seen);
    assert_eq!(batch.changes, [(format!("{PREFIX}edges/prod/a"), Some(b"2".to_vec()))]);
}

/// List, then watch from the list's revision, while others write: the sum is the end state.
async fn a_list_and_the_watch_after_it_leave_no_gap(store: Arc<dyn Store>) {
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for round in 0..200 {
                let key = (round % 7).to_string();
                commit(&store, [], [put(&key, &round.to_string())]).await;
            }
            commit(&store, [], [put("end", "x")]).await;
        }
    });
    let view = store.list(PREFIX).await.expect("a list");
    let mut state: BTreeMap<String, Vec<u8>> =
        view.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let mut watch = store.watch(PREFIX, view.revision).await.expect("a watch");
    while !state.contains_key(&format!("{PREFIX}end")) {
        match timeout(TIMEOUT, watch.next()).await.expect("in time") {
            Ok(batch) => {
                for (key, value) in batch.changes {
                    match value {
                        Some(value) => state.insert(key, value),
                        None => state.remove(&key),
                    };
                }
            }
            Err(WatchError::Compacted(_) | WatchError::Ended(_)) => {
                panic!("every store has the last 200 revisions")
            }
        }
    }
    writer.await.expect("the writer");
    let view = store.list(PREFIX).await.expect("a list");
    let expected: BTreeMap<_, _> =
        view.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    assert_eq!(state, expected);
}

/// A namespace with many edges is one transaction, up to [`Store::max_ops`].
async fn a_large_value_and_many_effects_pass(store: Arc<dyn Store>) {
    let many = store.max_ops().min(1_000);
    let ops: Vec<Op> = (0..many).map(|index| put(&format!("many/{index}"), "x")).collect();
    commit(&store, [], ops).await;
    assert_eq!(contents(&store, "many/").await.len(), many);
    let large = "x".repeat(200_000);
    commit(&store, [], [put("large", &large)]).await;
    assert_eq!(contents(&store, "large").await["large"], large);
}

/// After `close`, calls fail as unavailable and watches end.
async fn a_closed_store_says_so(store: Arc<dyn Store>) {
    let from = commit(&store, [], [put("a", "1")]).await;
    let mut watch = store.watch(PREFIX, from).await.expect("a watch");
    store.close().await;
    let txn = Txn { compares: Vec::new(), ops: vec![put("a", "2")] };
    assert!(matches!(store.commit(txn).await, Err(CommitError::Unavailable(_))));
    assert!(store.list(PREFIX).await.is_err());
    let end = timeout(TIMEOUT, watch.next()).await.expect("in time");
    assert!(matches!(end, Err(WatchError::Ended(_))));
}

/// A list that takes several requests is of one revision, also if others write meanwhile.
async fn a_large_list_is_of_one_revision(store: Arc<dyn Store>) {
    const KEYS: usize = 1_300;
    let at_once = store.max_ops().min(100);
    let keys: Vec<String> = (0..KEYS).map(|index| format!("many/{index:05}")).collect();
    for part in keys.chunks(at_once) {
        commit(&store, [], part.iter().map(|key| put(key, "first"))).await;
    }
    let ends = [keys[0].clone(), keys[KEYS - 1].clone()];
    commit(&store, [], ends.iter().map(|key| put(key, "started"))).await;
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for round in 0..100 {
                let text = round.to_string();
                commit(&store, [], ends.iter().map(|key| put(key, &text))).await;
            }
        }
    });
    let mut last = 0;
    while !writer.is_finished() {
        let view = store.list(&format!("{PREFIX}many/")).await.expect("a list");
        assert_eq!(view.entries.len(), KEYS);
        assert!(view.entries.is_sorted_by(|one, other| one.key < other.key));
        let ends = [&view.entries[0], &view.entries[KEYS - 1]];
        assert_eq!(ends[0].value, ends[1].value, "a list of two revisions");
        assert_eq!(ends[0].modified, ends[1].modified);
        assert!(view.revision >= last && view.revision >= ends[0].modified);
        last = view.revision;
    }
    writer.await.expect("the writer");
}

async fn commit(
    store: &Arc<dyn Store>,
    compares: impl IntoIterator<Item = Compare>,
    ops: impl IntoIterator<Item = Op>,
) -> Revision {
    let txn = Txn { compares: compares.into_iter().collect(), ops: ops.into_iter().collect() };
    timeout(TIMEOUT, store.commit(txn)).await.expect("in time").expect("a commit")
}

async fn contents(store: &Arc<dyn Store>, below: &str) -> BTreeMap<String, String> {
    let view = store.list(&format!("{PREFIX}{below}")).await.expect("a list");
    view.entries
        .into_iter()
        .map(|entry| {
            let key = entry.key.strip_prefix(PREFIX).expect("below the prefix").to_owned();
            (key, String::from_utf8(entry.value).expect("text"))
        })
        .collect()
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: format!("{PREFIX}{key}"), value: value.as_bytes().to_vec() }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: format!("{PREFIX}{key}") }
}

fn compare(key: &str, modified: Revision) -> Compare {
    Compare { key: format!("{PREFIX}{key}"), modified }
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}
