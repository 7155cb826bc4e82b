//! Certificates that are revoked, and edges and namespaces that are removed.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use cframe_controller::model::record::Key;
use cframe_pki::{Fingerprint, unix_now};
use cframe_protocol::v1::{Call, ErrorCode, GoodbyeReason};
use cframe_store::{Op, Store};
use tokio::time::timeout;

use crate::support::{
    admin::{AdminCalls, call_on, refused},
    calls::{edge_add, edge_del, label, route_add},
    controller::TestController,
    edge::{SessionEvent, TestEdge},
    writes::uncompared,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_edge_is_cut_off_at_once_and_for_good() {
    let mut controller = TestController::with_edges(&["a", "b"]).await;
    let (a, b) = (controller.join("a").await, controller.join("b").await);
    let mut victim = TestEdge::connect(a.client(), None);
    let mut other = TestEdge::connect(b.client(), None);
    victim.any_state().await;
    other.any_state().await;

    let start = Instant::now();
    let serial = a.serial();
    let revoke = Call::CertRevoke { serial, reason: "stolen".to_owned() };
    controller.change(revoke.clone()).await;
    other.state(|state| state.denied.iter().any(|denied| denied.serial == serial)).await;
    let pushed = start.elapsed();
    victim.goodbye(GoodbyeReason::Revoked).await;
    let closed = start.elapsed();
    assert!(pushed.max(closed) < Duration::from_secs(1), "{pushed:?}, {closed:?}");
    // It tries again, and is refused in the handshake.
    victim.refused().await;

    controller.restart().await;
    let mut again = TestEdge::connect(a.client(), None);
    again.refused().await;
    assert_eq!(controller.refusal(revoke).await.code, ErrorCode::Conflict);
    let mut fresh = TestEdge::connect(b.client(), None);
    fresh.state(|state| state.denied.iter().any(|denied| denied.serial == serial)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_an_edge_and_adding_it_again_does_not_lift_the_denial() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    let (a, b) = (controller.join("a").await, controller.join("b").await);
    let mut removed = TestEdge::connect(a.client(), None);
    let mut other = TestEdge::connect(b.client(), None);
    removed.any_state().await;
    other.any_state().await;
    controller.change(route_add("pods", "10.244.0.0/16", "a")).await;

    let start = Instant::now();
    let changed = controller.change(edge_del("a")).await;
    assert!(changed.warnings.iter().any(|warning| warning.contains("pods")), "{changed:?}");
    let gone = other.state(|state| !state.edges.contains_key("a")).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(gone.denied.iter().any(|denied| denied.serial == a.serial()), "one update for both");
    assert!(gone.prefixes.values().all(|owner| owner.as_str() == "b"));
    removed.goodbye(GoodbyeReason::Removed).await;

    controller.change(edge_add("prod", "a", "10.1.0.0/16")).await;
    let mut back = TestEdge::connect(a.client(), None);
    back.refused().await;
    // With a new token, the name can be used again.
    let new = controller.join("a").await;
    let mut edge = TestEdge::connect(new.client(), None);
    edge.state(|state| state.edges.contains_key("a")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_namespace_removes_its_edges() {
    let controller = TestController::with_edges(&["a"]).await;
    let a = controller.join("a").await;
    let mut edge = TestEdge::online(a.client()).await;
    let del = |cascade| Call::NamespaceDel { name: label("prod"), cascade };
    let error = controller.refusal(del(false)).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("(a)"), "{error}");
    controller.change(del(true)).await;
    edge.goodbye(GoodbyeReason::Removed).await;
    edge.refused().await;
    // If it is added again, its versions continue after the last.
    controller.add_namespace("prod").await;
    let changed = controller.add_edge("prod", "a", "10.1.0.0/16").await;
    assert!(changed.version.namespace > 3, "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_revokes_the_certificate_that_they_call_with() {
    let controller = TestController::start().await;
    let rows = controller.certs(None).await;
    let own = rows.iter().find(|row| row.id.role.kind() == "admin").unwrap();
    let of_controller = rows.iter().find(|row| row.id.role.kind() == "controller").unwrap();
    let revoke = Call::CertRevoke { serial: of_controller.serial, reason: String::new() };
    let error = controller.refusal(revoke).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("controller"), "{error}");
    let revoke = Call::CertRevoke { serial: own.serial, reason: String::new() };
    assert_eq!(controller.refusal(revoke).await.code, ErrorCode::Conflict);
    let del = Call::AdminDel { name: label("root") };
    assert_eq!(controller.refusal(del).await.code, ErrorCode::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_does_not_revoke_its_own_issuer() {
    let controller = TestController::start().await;
    let own = controller.data.issuer().unwrap().ca().spki_sha256();
    let error = controller.refusal(Call::IssuerRevoke { fingerprint: own }).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    let other = Fingerprint::of_spki(b"another controller's");
    let changed = controller.change(Call::IssuerRevoke { fingerprint: other }).await;
    assert_eq!(changed.version.mesh, 2);
    // The controller refuses more than fit into a frame.
    let admin = controller.admin_connection().await;
    let revoke = async |number: u16| {
        let fingerprint = Fingerprint::of_spki(&number.to_be_bytes());
        call_on(&admin, Call::IssuerRevoke { fingerprint }).await
    };
    for number in 1..256 {
        revoke(number).await.unwrap();
    }
    let error = refused(revoke(256).await);
    assert_eq!(error.code, ErrorCode::Conflict);
    controller.add_edges(&["a"]).await;
    let mut edge = TestEdge::connect(controller.join("a").await.client(), None);
    edge.state(|state| state.trust.revoked_issuers.len() == 256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_a_restored_store_does_not_have_is_denied_with_its_edge() {
    let mut controller = TestController::with_edges(&["a", "b"]).await;
    let (a, b) = (controller.join("a").await, controller.join("b").await);
    controller.stop().await;
    // As after a restore from a backup that is older than the join.
    let store = controller.data.open_store().await.unwrap();
    let forget = Op::Delete { key: Key::Cert(a.serial()).to_string() };
    store.commit(uncompared(vec![forget])).await.unwrap();
    store.close().await;
    controller.start_again().await;

    let _edge = TestEdge::online(a.client()).await;
    controller.change(edge_del("a")).await;
    let mut other = TestEdge::connect(b.client(), None);
    other.state(|state| state.denied.iter().any(|denied| denied.serial == a.serial())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_outlives_its_certificate() {
    let controller = TestController::with_edges(&["a"]).await;
    let a = controller.join("a").await;
    let not_after = a.credentials().identity().unwrap().not_after;
    // Two seconds before the end. Handshakes use the real clock, and succeed.
    let ahead = not_after - unix_now() - 2;
    controller.seconds_ahead.store(ahead, Ordering::SeqCst);
    let start = Instant::now();
    let admin = controller.admin_connection().await;
    call_on(&admin, Call::Status).await.unwrap();
    let mut edge = TestEdge::online(a.client()).await;
    edge.event(|event| matches!(event, SessionEvent::Ended(_))).await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let closed = async { while call_on(&admin, Call::Status).await.is_ok() {} };
    timeout(Duration::from_secs(4), closed).await.unwrap();
}
