//! Writers who conflict, through one controller and through two.

use std::{collections::BTreeSet, sync::Arc};

use cframe_protocol::session::{Client, transport::ADMIN_STREAMS};
use tokio::task::JoinSet;

use crate::support::{
    admin::{AdminCalls, call_on},
    calls::route_add,
    controller::TestController,
    wait::until,
};

const WRITERS: usize = 64;
const ROUNDS: usize = 3;

fn edges() -> Vec<String> {
    (0..16).map(|index| format!("e{index}")).collect()
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// 64 writers write at once, through the controllers in turn, and only those for one edge may succeed. In the end no
/// prefixes of two edges overlap, on any controller. With two controllers, each writes for other edges, so that a controller
/// cannot decide the race from its own memory.
async fn one_wins(admins: &[&Client]) {
    let mut connections = Vec::new();
    for _ in 0..WRITERS / ADMIN_STREAMS as usize / admins.len() {
        for admin in admins {
            connections.push(Arc::new(admin.admin_connection().await));
        }
    }
    for round in 0..ROUNDS {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let admin = Arc::clone(&connections[writer % connections.len()]);
            // Every prefix overlaps every other: they are nested around one address, and belong to 16 edges.
            let prefix = format!("10.{}.0.0/{}", 128 + round * 16, 12 + writer % 12);
            let edge = format!("e{}", writer % 16);
            let call = route_add(&format!("w{round}-{writer}"), &prefix, &edge);
            writers.spawn(async move { call_on(&admin, call).await.map(|_| edge) });
        }
        let mut winners = BTreeSet::new();
        for result in writers.join_all().await {
            match result {
                Ok(edge) => {
                    winners.insert(edge);
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("overlaps") || text.contains("already there"), "{text}");
                }
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
    }
    let routes = admins[0].routes().await;
    for admin in &admins[1..] {
        until(async || admin.routes().await == routes).await;
    }
    for one in &routes {
        for other in &routes {
            let share = one.prefix.contains(&other.prefix) || other.prefix.contains(&one.prefix);
            assert!(!share || one.edge == other.edge, "{one:?} and {other:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_writers_of_one_prefix_one_wins() {
    let controller = TestController::with_edges(&refs(&edges())).await;
    one_wins(&[&controller.admin]).await;
}

async fn through_both([a, b]: [TestController; 2]) {
    // Each knows all edges.
    let all = edges().len();
    for controller in [&a, &b] {
        until(async || {
            let namespaces = controller.status().await.namespaces;
            namespaces.first().is_some_and(|namespace| namespace.edges as usize == all)
        })
        .await;
    }
    one_wins(&[&a.admin, &b.admin]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_writers_through_two_controllers_one_wins() {
    through_both(TestController::pair(&refs(&edges())).await).await;
}

#[cfg(feature = "etcd")]
#[tokio::test(flavor = "multi_thread")]
async fn of_64_writers_through_two_controllers_on_etcd_one_wins() {
    let cluster = crate::support::etcd::EtcdCluster::start(3).await;
    let stores: [Arc<dyn cframe_store::Store>; 2] =
        [cluster.store_of(&[0, 1, 2]), cluster.store_of(&[1, 2, 0])];
    through_both(TestController::pair_on(stores, &refs(&edges())).await).await;
}
