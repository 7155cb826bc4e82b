//! Advertised keys.

use std::sync::Arc;

use tokio::time::timeout;

use super::*;
use crate::Advertisement;

/// It is in lists and watches like any other key, and deleted when nobody holds it.
pub(super) async fn an_advertised_key_is_there_while_it_is_held(store: Arc<dyn Store>) {
    let from = commit(&store, [], [put("edges/prod/a", "1")]).await;
    let mut watch = store.watch(&format!("{PREFIX}alive/"), from).await.expect("a watch");
    let mut held = advertise(&store, "alive/one").await;
    assert_eq!(contents(&store, "alive/").await, [("alive/one", "here")].map(owned).into());
    let batch = timeout(TIMEOUT, watch.next()).await.expect("in time").expect("a batch");
    assert_eq!(batch.changes, [(format!("{PREFIX}alive/one"), Some(b"here".to_vec()))]);
    // It outlives its time to live as long as it is held.
    let longer = timeout(TTL + TTL / 2, async { (held.lost().await, watch.next().await) }).await;
    assert!(longer.is_err(), "it was lost, or changed");
    assert_eq!(contents(&store, "alive/").await.len(), 1);
    drop(held);
    let batch = timeout(TTL / 2, watch.next()).await.expect("at once").expect("a batch");
    assert_eq!(batch.changes, [(format!("{PREFIX}alive/one"), None)]);
    assert!(contents(&store, "alive/").await.is_empty());
}

/// When the older holder ends, the newer one's key stays.
pub(super) async fn advertising_again_leaves_the_newer_one(store: Arc<dyn Store>) {
    let older = advertise(&store, "alive/one").await;
    let newer = advertise(&store, "alive/one").await;
    let other = advertise(&store, "alive/other").await;
    let from = store.list(PREFIX).await.expect("a list").revision;
    let mut watch = store.watch(PREFIX, from).await.expect("a watch");
    drop(older);
    drop(other);
    let batch = timeout(TIMEOUT, watch.next()).await.expect("in time").expect("a batch");
    assert_eq!(batch.changes, [(format!("{PREFIX}alive/other"), None)]);
    assert_eq!(contents(&store, "alive/").await, [("alive/one", "here")].map(owned).into());
    drop(newer);
}

/// The holder notices.
pub(super) async fn closing_deletes_advertised_keys(store: Arc<dyn Store>) {
    let mut held = advertise(&store, "alive/one").await;
    store.close().await;
    timeout(TIMEOUT, held.lost()).await.expect("in time");
}

pub(super) async fn advertise(store: &Arc<dyn Store>, key: &str) -> Box<dyn Advertisement> {
    let advertised = store.advertise(format!("{PREFIX}{key}"), b"here".to_vec(), TTL);
    timeout(TIMEOUT, advertised).await.expect("in time").expect("an advertisement")
}
