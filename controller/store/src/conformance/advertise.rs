//! Advertised keys.

use std::sync::Arc;

use tokio::time::timeout;

use super::*;
use crate::Advertisement;

/// In lists and watches like any other key; gone when nobody holds it.
pub(super) async fn what_is_advertised_is_there_while_it_is_held(store: Arc<dyn Store>) {
    let from = commit(&store, [], [put("edges/prod/a", "1")]).await;
    let mut watch = store.watch(&format!("{PREFIX}alive/"), from).await.expect("a watch");
    let mut held = advertise(&store, "alive/one").await;
    assert_eq!(contents(&store, "alive/").await, [("alive/one", "here")].map(owned).into());
    let batch = timeout(PATIENCE, watch.next()).await.expect("in time").expect("a batch");
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

/// The older holder's end does not take the newer one's key.
pub(super) async fn advertising_anew_leaves_the_newer(store: Arc<dyn Store>) {
    let older = advertise(&store, "alive/one").await;
    let newer = advertise(&store, "alive/one").await;
    let other = advertise(&store, "alive/other").await;
    let from = store.list(PREFIX).await.expect("a list").revision;
    let mut watch = store.watch(PREFIX, from).await.expect("a watch");
    drop(older);
    drop(other);
    let batch = timeout(PATIENCE, watch.next()).await.expect("in time").expect("a batch");
    assert_eq!(batch.changes, [(format!("{PREFIX}alive/other"), None)]);
    assert_eq!(contents(&store, "alive/").await, [("alive/one", "here")].map(owned).into());
    drop(newer);
}

/// The holder is told.
pub(super) async fn closing_takes_back_what_is_advertised(store: Arc<dyn Store>) {
    let mut held = advertise(&store, "alive/one").await;
    store.close().await;
    timeout(PATIENCE, held.lost()).await.expect("in time");
}

pub(super) async fn advertise(store: &Arc<dyn Store>, key: &str) -> Box<dyn Advertisement> {
    let advertised = store.advertise(format!("{PREFIX}{key}"), b"here".to_vec(), TTL);
    timeout(PATIENCE, advertised).await.expect("in time").expect("an advertisement")
}
