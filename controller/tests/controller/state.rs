//! The state that edges receive, and what the controller knows of them.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use cframe_controller::RunError;
use cframe_protocol::{
    session::Command,
    v1::{Call, EdgeLiveness, ErrorCode, GoodbyeReason, LinkReport, Reply, Report},
};

use crate::support::{
    admin::{AdminCalls, refused},
    calls::{edge_add, edge_describe, label, route_add},
    controller::TestController,
    edge::TestEdge,
    wait::until,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_every_session_as_a_difference() {
    let controller = TestController::with_edges(&["a", "b", "c"]).await;
    let mut edges = Vec::new();
    for name in ["a", "b", "c"] {
        edges.push(TestEdge::online(controller.join(name).await.client()).await);
    }
    let mut slowest = Duration::ZERO;
    for index in 0..20 {
        let start = Instant::now();
        let route = route_add(&format!("r{index}"), &format!("10.200.{index}.0/24"), "b");
        let version = controller.change(route).await.version;
        for edge in &mut edges {
            let state = edge.state(|state| state.version.at_least(&version)).await;
            let net = format!("10.200.{index}.0/24").parse().unwrap();
            assert_eq!(state.prefixes[&net].as_str(), "b");
        }
        slowest = slowest.max(start.elapsed());
    }
    eprintln!("slowest of 20 edits, command to all three edges: {slowest:?}");
    let wait = Call::Wait {
        namespace: label("prod"),
        version: edges[0].desired.borrow().as_ref().unwrap().version,
        timeout_secs: 10,
    };
    let replies = controller.call(wait).await.unwrap();
    let Some(Reply::Progress(last)) = replies.last() else { panic!("{replies:?}") };
    assert_eq!((last.acked, last.total), (3, 3));
    let status = controller.status().await;
    let prod = &status.namespaces[0];
    assert_eq!((prod.edges, prod.online, prod.in_sync, prod.links_expected), (3, 3, 3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_was_away_gets_the_difference_and_one_of_another_epoch_everything() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    let identity = controller.join("a").await;
    let mut edge = TestEdge::connect(identity.client(), None);
    let before = edge.any_state().await;
    drop(edge);
    let changed = controller.change(route_add("r", "10.244.0.0/16", "b")).await;
    let mut edge = TestEdge::connect(identity.client(), Some(before.clone()));
    let after = edge.state(|state| state.version == changed.version).await;
    assert_eq!(before.diff(&after).len(), 1);
    drop(edge);
    let mut older = (*after).clone();
    older.version.epoch -= 1;
    older.version.namespace += 100;
    older.prefixes.clear();
    let mut edge = TestEdge::connect(identity.client(), Some(older.into()));
    assert_eq!(edge.state(|state| state.version == after.version).await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_behind_sends_nothing_older() {
    let controller = TestController::with_edges(&["a"]).await;
    let identity = controller.join("a").await;
    let mut edge = TestEdge::connect(identity.client(), None);
    let mut ahead = (*edge.any_state().await).clone();
    drop(edge);
    ahead.version.namespace += 1;
    let mut edge = TestEdge::connect(identity.client(), Some(ahead.clone().into()));
    edge.connected().await;
    controller.change(route_add("one", "10.243.0.0/16", "a")).await;
    let changed = controller.change(route_add("two", "10.244.0.0/16", "a")).await;
    // Nothing of its newer state was taken back: the first state that it receives is newer still.
    let state = edge.any_state().await;
    assert!(state.version.at_least(&ahead.version), "{}", state.version);
    edge.state(|state| state.version == changed.version).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_checks_and_changes_nothing() {
    let controller = TestController::with_edges(&["a"]).await;
    let replies = controller.dry_run(edge_add("prod", "b", "10.7.0.0/16")).await.unwrap();
    assert!(matches!(replies[0], Reply::Changed(_)));
    let error = refused(controller.dry_run(edge_add("prod", "b", "10.1.7.0/24")).await);
    assert_eq!(error.code, ErrorCode::Conflict);
    let show = Call::EdgeShow { namespace: label("prod"), name: label("b") };
    assert_eq!(controller.refusal(show).await.code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_an_edge_is_one_update() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    let identity = controller.join("b").await;
    let mut edge = TestEdge::online(identity.client()).await;
    let set = Call::EdgeSet {
        namespace: label("prod"),
        name: label("a"),
        cidrs: Some(vec!["10.77.0.0/16".parse().unwrap()]),
        endpoints: Some(vec!["198.51.100.1:58423".parse().unwrap()]),
        description: None,
        no_link_to: None,
    };
    let changed = controller.change(set).await;
    let state = edge.state(|state| state.version == changed.version).await;
    assert_eq!(state.edges["a"].endpoints[0].as_str(), "198.51.100.1:58423");
    assert!(state.prefixes.contains_key(&"10.77.0.0/16".parse().unwrap()));
    assert!(!state.prefixes.contains_key(&"10.1.0.0/16".parse().unwrap()));
    // Descriptions are not sent to edges.
    let described = controller.change(edge_describe("a", "Hong Kong")).await;
    assert_eq!(described.version, changed.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_a_mistake_is_warned_about() {
    let controller = TestController::with_edges(&[]).await;
    let add = |name: &str, cidr: &str, endpoints: &[&str]| Call::EdgeAdd {
        namespace: label("prod"),
        name: label(name),
        cidrs: vec![cidr.parse().unwrap()],
        endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
        description: String::new(),
    };
    let none = controller.change(add("a", "10.1.0.0/16", &["203.0.113.7:58423"])).await.warnings;
    assert!(none.is_empty(), "{none:?}");
    let captured = controller.change(add("b", "203.0.113.0/24", &[])).await.warnings;
    assert!(
        captured.iter().any(|text| text.contains("203.0.113.7:58423 of edge a")),
        "{captured:?}"
    );
    let silent = controller.change(add("c", "10.3.0.0/16", &[])).await.warnings;
    assert!(silent.iter().any(|text| text.contains("neither c nor b")), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_fails_writes_and_nothing_else() {
    let controller = TestController::with_edges(&["a"]).await;
    let identity = controller.join("a").await;
    let mut before = TestEdge::connect(identity.client(), None);
    let state = before.any_state().await;
    controller.faults.disk_full.store(true, Ordering::SeqCst);
    let error = controller.refusal(route_add("r", "10.244.0.0/16", "a")).await;
    assert_eq!(error.code, ErrorCode::StoreFull, "{error}");
    let status = controller.status().await;
    assert!(
        status.problems.iter().any(|group| group.examples[0].text.contains("full")),
        "{:?}",
        status.problems
    );
    let mut meanwhile = TestEdge::connect(identity.client(), None);
    assert_eq!(meanwhile.any_state().await, state);
    controller.faults.disk_full.store(false, Ordering::SeqCst);
    let changed = controller.change(route_add("r", "10.244.0.0/16", "a")).await;
    meanwhile.state(|state| state.version == changed.version).await;
    let status = controller.status().await;
    assert!(
        status.problems.iter().all(|group| !group.examples[0].text.contains("full")),
        "{:?}",
        status.problems
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn liveness_follows_the_session() {
    let mut controller = TestController::with_edges(&["a", "b"]).await;
    let identity = controller.join("a").await;
    assert_eq!(controller.edge("b").await.state, EdgeLiveness::NeverSeen);
    let mut edge = TestEdge::online(identity.client()).await;
    assert!(matches!(controller.edge("a").await.state, EdgeLiveness::Online { .. }));
    controller.restart().await;
    edge.goodbye(GoodbyeReason::Shutdown).await;
    edge.connected().await;
    drop(edge);
    until(async || matches!(controller.edge("a").await.state, EdgeLiveness::Offline { .. })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_offline_has_no_links() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    let identity = controller.join("a").await;
    let edge = TestEdge::connect(identity.client(), None);
    let _peer = TestEdge::online(controller.join("b").await.client()).await;
    let link =
        LinkReport { peer: label("b"), up: true, rtt_us: 900, path_mtu: 1452, since_unix: 1 };
    let report = Report { links: vec![link], cert_not_after: 9, applied: None };
    edge.commands.send(Command::Report(report)).await.unwrap();
    until(async || controller.edge("a").await.links.len() == 1).await;
    let status = controller.status().await;
    assert_eq!(status.namespaces[0].links_up, 1);
    controller
        .change(Call::CertRevoke { serial: identity.serial(), reason: "lost".to_owned() })
        .await;
    until(async || controller.edge("a").await.links.is_empty()).await;
    assert!(matches!(controller.edge("a").await.state, EdgeLiveness::Revoked { .. }));
    let status = controller.status().await;
    assert_eq!(status.namespaces[0].links_up, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_can_no_longer_follow_its_store_ends() {
    let mut controller = TestController::with_edges(&["a"]).await;
    controller.faults.watches_panic.store(true, Ordering::SeqCst);
    let _ = controller.call(route_add("r", "10.244.0.0/16", "a")).await;
    let end = controller.ended().await;
    assert!(matches!(end, Err(RunError::Broken)), "{end:?}");
}
