//! Writers in each other's way, through one controller and through two.

use std::{collections::BTreeSet, sync::Arc};

use cframe_protocol::{
    session::{AdminConnection, Client, admin_call, transport::ADMIN_STREAMS},
    v1::{Call, Reply, RouteRow},
};
use cframe_store::Store;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{
    etcd::cluster::Cluster,
    pair::{Pair, until},
    world::{PATIENCE, World, route_add},
};

const WRITERS: usize = 64;
const ROUNDS: usize = 3;

fn edges() -> Vec<String> {
    (0..16).map(|index| format!("e{index}")).collect()
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Of 64 that write at once, through these controllers in turn, those of one edge win; and no prefixes of two
/// edges overlap in the end, whichever controller is asked. Of two controllers each has edges of its own, so that one's
/// memory does not spare the other the race.
async fn one_wins(admins: &[&Client]) {
    let mut connections = Vec::new();
    for _ in 0..WRITERS / ADMIN_STREAMS as usize / admins.len() {
        for admin in admins {
            connections.push(Arc::new(AdminConnection::connect(admin).await.unwrap()));
        }
    }
    for round in 0..ROUNDS {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let admin = Arc::clone(&connections[writer % connections.len()]);
            // Each overlaps every other: nested prefixes around one address, of 16 edges.
            let prefix = format!("10.{}.0.0/{}", 128 + round * 16, 12 + writer % 12);
            let edge = format!("e{}", writer % 16);
            let call = route_add(&format!("w{round}-{writer}"), &prefix, &edge);
            writers.spawn(async move {
                let replies = admin.call(call, false).await.unwrap();
                replies.collect().await.map(|_| edge)
            });
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
    let routes = routes(admins[0]).await;
    for admin in &admins[1..] {
        until(async || self::routes(admin).await == routes).await;
    }
    for one in &routes {
        for other in &routes {
            let share = one.prefix.contains(&other.prefix) || other.prefix.contains(&one.prefix);
            assert!(!share || one.edge == other.edge, "{one:?} and {other:?}");
        }
    }
}

async fn routes(admin: &Client) -> Vec<RouteRow> {
    let list = Call::RouteList { namespace: None };
    let mut replies = admin_call(admin, list, false, PATIENCE).await.unwrap();
    let Some(Reply::Routes(routes)) = replies.pop() else { panic!("routes") };
    routes
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_writers_of_one_prefix_one_wins() {
    let world = World::with_edges(&refs(&edges())).await;
    one_wins(&[&world.admin]).await;
}

async fn through_both(pair: &Pair) {
    // Each knows of all edges.
    let all = edges().len();
    for member in [&pair.a, &pair.b] {
        until(async || {
            member.status().await.namespaces.first().is_some_and(|n| n.edges as usize == all)
        })
        .await;
    }
    one_wins(&[&pair.a.admin, &pair.b.admin]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_writers_through_two_controllers_one_wins() {
    through_both(&Pair::with_edges(&refs(&edges())).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_writers_through_two_controllers_on_etcd_one_wins() {
    let cluster = Cluster::start(3).await;
    let stores: [Arc<dyn Store>; 2] = [cluster.store_of(&[0, 1, 2]), cluster.store_of(&[1, 2, 0])];
    through_both(&Pair::on(stores, TempDir::new().unwrap(), &refs(&edges())).await).await;
}
