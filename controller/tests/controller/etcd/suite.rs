//! The suite that every store must pass.

use std::sync::Arc;

use cframe_store::{Store, conformance};
use tokio::time::Instant;

use crate::support::etcd::EtcdCluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_etcd_conforms() {
    let cluster = EtcdCluster::start(1).await;
    let start = Instant::now();
    conformance::all(|| async {
        cluster.clear().await;
        cluster.store() as Arc<dyn Store>
    })
    .await;
    println!("conformance: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_on_three_members_conform() {
    let cluster = EtcdCluster::start(3).await;
    let start = Instant::now();
    conformance::shared(|| async {
        cluster.clear().await;
        // The handles use different members.
        let (one, other) = (cluster.store_of(&[0, 1, 2]), cluster.store_of(&[1, 2, 0]));
        (one as Arc<dyn Store>, other as Arc<dyn Store>)
    })
    .await;
    println!("conformance of two handles: {:?}", start.elapsed());
}
