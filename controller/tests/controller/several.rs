//! Two controllers on one store: what each does for the edges and admins of the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_protocol::{
    session::{Command, EnrollFailure},
    v1::{
        AuditQuery, Call, Desired, EdgeLiveness, Endpoint, ErrorCode, GoodbyeReason, Reply, Version,
    },
};
use tokio::task::JoinSet;

use crate::support::{
    admin::AdminCalls,
    calls::{label, route_add},
    controller::{TestController, both_run},
    edge::{SessionEvent, TestEdge, join},
    wait::until,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_through_one_reaches_the_edges_of_the_other_at_once() {
    let [a, b] = TestController::pair(&["x", "y"]).await;
    let identity = a.join("x").await;
    let mut edge = TestEdge::online(b.only(&identity)).await;
    let start = Instant::now();
    let changed = a.change(route_add("r", "10.244.0.0/16", "y")).await;
    edge.state(|state| state.version == changed.version).await;
    let took = start.elapsed();
    println!("figure: edit through one controller → on an edge of the other: {took:?}");
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_covers_the_edges_of_both() {
    let [a, b] = TestController::pair(&["x", "y"]).await;
    let (x, y) = (a.join("x").await, a.join("y").await);
    let mut here = TestEdge::connect(a.only(&x), None);
    let mut there = TestEdge::connect_without_acks(b.only(&y));
    here.any_state().await;
    there.any_state().await;
    there.acknowledge().await;
    let changed = a.change(route_add("r", "10.244.0.0/16", "x")).await;
    there.state(|state| state.version == changed.version).await;
    let error = a.refusal(wait(changed.version, 1)).await;
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.message.contains("1 of 2") && error.message.contains("y"), "{error}");
    let waiting = a.call(wait(changed.version, 10));
    let (replies, ()) = tokio::join!(waiting, there.acknowledge());
    let replies = replies.unwrap();
    let last = replies.iter().rev().find_map(|reply| match reply {
        Reply::Progress(progress) => Some(progress.clone()),
        _ => None,
    });
    let last = last.unwrap();
    assert_eq!((last.acked, last.total), (2, 2), "{replies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_still_counts_an_edge_that_moves_to_the_other() {
    let [a, b] = TestController::pair(&["x"]).await;
    let x = a.join("x").await;
    let mut there = TestEdge::connect_without_acks(b.only(&x));
    there.any_state().await;
    there.acknowledge().await;
    let changed = a.change(route_add("r", "10.244.0.0/16", "x")).await;
    let state = there.state(|state| state.version == changed.version).await;
    let admin = a.admin_connection().await;
    let mut replies = admin.call(wait(changed.version, 10), false).await.unwrap();
    let mut progress = async |acked: u32, total: u32| {
        loop {
            match replies.next().await.unwrap() {
                Some(Reply::Progress(at)) if (at.acked, at.total) == (acked, total) => return,
                Some(Reply::Progress(at)) => assert!(at.total == 1 || at.acked < 1, "{at:?}"),
                Some(Reply::Unheard(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    progress(0, 1).await;
    // Between the two it has no session, but it is not forgotten.
    drop(there);
    until(async || !matches!(state_of(&a, "x").await, EdgeLiveness::Online { .. })).await;
    let mut here = TestEdge::connect(a.only(&x), Some(previous(&state)));
    here.state(|state| state.version == changed.version).await;
    progress(1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_lasts_until_the_edges_of_a_killed_controller_are_with_the_other() {
    let [a, mut b] = TestController::pair(&["x"]).await;
    let x = a.join("x").await;
    let mut edge = TestEdge::connect_without_acks(b.only(&x));
    let state = edge.any_state().await;
    edge.acknowledge().await;
    edge.commands.send(Command::Client(x.client())).await.unwrap();
    until(async || a.edge("x").await.applied == Some(state.version)).await;
    let version = a.change(route_add("r", "10.244.0.0/16", "x")).await.version;
    edge.state(|state| state.version == version).await;
    let admin = a.admin_connection().await;
    let mut replies = admin.call(wait(version, 15), false).await.unwrap();
    // The wait counts the edge.
    while !matches!(replies.next().await.unwrap(), Some(Reply::Progress(at)) if at.total == 1) {}
    b.kill();
    let waited = async { while replies.next().await.unwrap().is_some() {} };
    let moved = edge.connected();
    let (end, moved) = tokio::join!(async { (waited.await, Instant::now()).1 }, async {
        (moved.await, Instant::now()).1
    });
    assert!(end > moved, "it ended {:?} too early", moved - end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_whose_lease_expires_advertises_itself_again() {
    let [a, b] = TestController::pair(&[]).await;
    let running = async || a.controllers().await.iter().filter(|row| row.running.is_some()).count();
    assert_eq!(running().await, 2);
    b.expire_lease();
    until(async || running().await == 1).await;
    until(async || running().await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_of_a_killed_controller_are_with_the_other_within_5_s() {
    let [a, mut b] = TestController::pair(&["x"]).await;
    let x = a.join("x").await;
    let mut edge = b.movable_edge(&x).await;
    let start = Instant::now();
    b.kill();
    edge.connected().await;
    let took = start.elapsed();
    println!("figure: controller killed → its edge is with the other: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    until(async || matches!(state_of(&a, "x").await, EdgeLiveness::Online { .. })).await;
    until(async || a.problems().await == ["controller b does not run"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_of_a_controller_that_stops_are_with_the_other_within_a_second() {
    let [a, mut b] = TestController::pair(&["x"]).await;
    let x = a.join("x").await;
    let mut edge = b.movable_edge(&x).await;
    let start = Instant::now();
    let stopping = b.stop();
    let moved = async {
        edge.goodbye(GoodbyeReason::Shutdown).await;
        edge.connected().await;
        start.elapsed()
    };
    let ((), took) = tokio::join!(stopping, moved);
    println!("figure: controller stopped → its edge is with the other: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    // When it is back, each queries the other again.
    b.start_again().await;
    both_run(&[a, b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_report_the_same_about_the_mesh() {
    let [a, b] = TestController::pair(&["x", "y", "z"]).await;
    let (x, y) = (a.join("x").await, b.join("y").await);
    let mut here = TestEdge::connect(a.only(&x), None);
    let mut there = TestEdge::connect(b.only(&y), None);
    here.any_state().await;
    there.any_state().await;
    until(async || a.status().await.namespaces[0].in_sync == 2).await;
    let (mut one, mut other) = (a.status().await, b.status().await);
    for status in [&mut one, &mut other] {
        status.controllers.iter_mut().for_each(|row| row.uptime_secs = 0);
    }
    assert_eq!(one, other);
    assert_eq!((one.namespaces[0].online, one.controllers.len()), (2, 2));
    assert_eq!(one.problems.len(), 1);
    assert_eq!(one.problems[0].examples[0].text, "edge prod/z has not joined yet");
    assert_eq!(a.edges().await, b.edges().await);
    assert!(matches!(state_of(&b, "x").await, EdgeLiveness::Online { .. }));
    // A request to renew goes to the controller that has the edge's session.
    let renew = |edge: &str| Call::CertRenew { namespace: label("prod"), edge: label(edge) };
    a.change(renew("y")).await;
    there.event(|event| matches!(event, SessionEvent::RenewNow)).await;
    assert_eq!(a.refusal(renew("z")).await.code, ErrorCode::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_does_not_answer_is_named_and_its_edges_are_unknown() {
    let [a, mut b] = TestController::pair(&["x"]).await;
    let x = a.join("x").await;
    let _edge = TestEdge::online(b.only(&x)).await;
    let version = a.change(route_add("r", "10.244.0.0/16", "x")).await.version;
    b.kill();
    let start = Instant::now();
    let status = a.status().await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(
        status
            .problems
            .iter()
            .flat_map(|group| &group.examples)
            .any(|example| { example.text.starts_with("controller b does not answer") }),
        "{:?}",
        status.problems
    );
    assert_eq!(state_of(&a, "x").await, EdgeLiveness::Unknown);
    let error = a.refusal(wait(version, 1)).await;
    assert!(error.message.contains("no answer of controller b"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_join_through_either_controller() {
    let [a, b] = TestController::pair(&["x"]).await;
    let token = a.token("x").await;
    let ports: Vec<u16> =
        token.addresses.iter().map(|address| address.parse::<Endpoint>().unwrap().port()).collect();
    assert_eq!(ports, [a.enroll.port(), b.enroll.port()]);
    let mut joins = JoinSet::new();
    for number in 0..32 {
        let mut token = token.clone();
        let at = [a.enroll, b.enroll][number % 2];
        token.addresses = vec![at.to_string()];
        joins.spawn(async move { join(&token).await.map(drop) });
    }
    let results = joins.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(&error, EnrollFailure::Refused(_)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_one_has_enrolled_renews_with_the_other() {
    let [a, b] = TestController::pair(&["x", "y"]).await;
    let x = a.join("x").await;
    let mut edge = TestEdge::online(b.only(&x)).await;
    let renewed = edge.renew().await;
    assert_ne!(renewed.enrolled.chain[1], x.enrolled.chain[1], "by another issuing CA");
    TestEdge::online(a.only(&renewed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_through_one_ends_the_session_with_the_other_within_a_second() {
    let [a, b] = TestController::pair(&["x"]).await;
    let x = a.join("x").await;
    let mut edge = TestEdge::online(b.only(&x)).await;
    let start = Instant::now();
    let revoke = Call::CertRevoke { serial: x.serial(), reason: "stolen".to_owned() };
    a.change(revoke).await;
    edge.goodbye(GoodbyeReason::Revoked).await;
    let took = start.elapsed();
    println!("figure: revocation through one controller → session with the other closed: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_controllers_ask_each_other_is_not_in_the_audit_log() {
    let pair = TestController::pair(&["x"]).await;
    both_run(&pair).await;
    let [a, b] = &pair;
    for _ in 0..5 {
        a.status().await;
        b.call(Call::EdgeList { namespace: None }).await.unwrap();
    }
    // Refused calls are recorded, after everything before them.
    let missing = Call::ControllerDel { name: label("nobody"), revoke_issuer: false };
    for controller in [a, b] {
        controller.refusal(missing.clone()).await;
    }
    let logged = async || {
        let rows = a.audit(AuditQuery::default()).await;
        rows.into_iter().map(|row| row.record).collect::<Vec<_>>()
    };
    until(async || {
        logged().await.iter().filter(|record| record.contains("controller-del")).count() == 2
    })
    .await;
    for record in logged().await {
        let queries = ["\"sessions\"", "\"behind\"", "\"status\"", "\"edge-list\""];
        assert!(!queries.iter().any(|call| record.contains(call)), "{record}");
    }
}

/// The version before: that of an edge which has not applied the newest.
fn previous(state: &Desired) -> Arc<Desired> {
    let version = Version { namespace: state.version.namespace - 1, ..state.version };
    Arc::new(Desired { version, ..state.clone() })
}

async fn state_of(controller: &TestController, edge: &str) -> EdgeLiveness {
    controller.edge(edge).await.state
}

fn wait(version: Version, timeout_secs: u32) -> Call {
    Call::Wait { namespace: label("prod"), version, timeout_secs }
}
