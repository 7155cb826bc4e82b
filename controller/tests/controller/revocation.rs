use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use cframe_protocol::{
    session::AdminConnection,
    v1::{Call, ErrorCode, GoodbyeReason},
};

use crate::world::{Edge, Seen, World, edge_add, label};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_edge_is_cut_off_at_once_and_for_good() {
    let mut world = World::with_edges(&["a", "b"]).await;
    let (a, b) = (world.join("prod", "a").await, world.join("prod", "b").await);
    let mut victim = Edge::connect(a.client(), None);
    let mut other = Edge::connect(b.client(), None);
    victim.until(|_| true).await;
    other.until(|_| true).await;

    let begun = Instant::now();
    let serial = a.serial();
    let revoke = Call::CertRevoke { serial, reason: "stolen".to_owned() };
    world.change(revoke.clone()).await;
    other.until(|state| state.denied.iter().any(|denied| denied.serial == serial)).await;
    let pushed = begun.elapsed();
    victim.event(|seen| matches!(seen, Seen::Goodbye(GoodbyeReason::Revoked))).await;
    let closed = begun.elapsed();
    assert!(pushed.max(closed) < Duration::from_secs(1), "{pushed:?}, {closed:?}");
    // It tries by itself, and is refused in the handshake.
    victim.event(|seen| matches!(seen, Seen::Ended(why) if why.contains("refuses"))).await;

    world.restart().await;
    let mut again = Edge::connect(a.client(), None);
    again.event(|seen| matches!(seen, Seen::Ended(why) if why.contains("refuses"))).await;
    assert_eq!(world.refusal(revoke).await.code, ErrorCode::Conflict);
    let mut fresh = Edge::connect(b.client(), None);
    fresh.until(|state| state.denied.iter().any(|denied| denied.serial == serial)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_an_edge_and_adding_it_again_does_not_lift_the_denial() {
    let world = World::with_edges(&["a", "b"]).await;
    let (a, b) = (world.join("prod", "a").await, world.join("prod", "b").await);
    let mut removed = Edge::connect(a.client(), None);
    let mut other = Edge::connect(b.client(), None);
    removed.until(|_| true).await;
    other.until(|_| true).await;
    world.change(crate::world::route_add("pods", "10.244.0.0/16", "a")).await;

    let begun = Instant::now();
    let del = Call::EdgeDel { namespace: label("prod"), name: label("a") };
    let changed = world.change(del).await;
    assert!(changed.warnings.iter().any(|warning| warning.contains("pods")), "{changed:?}");
    let gone = other.until(|state| !state.edges.contains_key("a")).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(gone.denied.iter().any(|denied| denied.serial == a.serial()), "one update has both");
    assert!(gone.prefixes.values().all(|owner| owner.as_str() == "b"));
    removed.event(|seen| matches!(seen, Seen::Goodbye(GoodbyeReason::Removed))).await;

    world.change(edge_add("prod", "a", "10.1.0.0/16")).await;
    let mut back = Edge::connect(a.client(), None);
    back.event(|seen| matches!(seen, Seen::Ended(why) if why.contains("refuses"))).await;
    // A new token makes the name good again.
    let new = world.join("prod", "a").await;
    let mut edge = Edge::connect(new.client(), None);
    edge.until(|state| state.edges.contains_key("a")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_namespace_takes_its_edges_along() {
    let world = World::with_edges(&["a"]).await;
    let a = world.join("prod", "a").await;
    let mut edge = Edge::connect(a.client(), None);
    edge.until(|_| true).await;
    let del = |cascade| Call::NamespaceDel { name: label("prod"), cascade };
    let error = world.refusal(del(false)).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("(a)"), "{error}");
    world.change(del(true)).await;
    edge.event(|seen| matches!(seen, Seen::Goodbye(GoodbyeReason::Removed))).await;
    edge.event(|seen| matches!(seen, Seen::Ended(why) if why.contains("refuses"))).await;
    // Made again, it begins beyond where it was.
    world.add_namespace("prod").await;
    let changed = world.add_edge("prod", "a", "10.1.0.0/16").await;
    assert!(changed.version.namespace > 3, "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_revokes_what_they_call_with() {
    let world = World::start().await;
    let rows = match world.reply(Call::CertList { namespace: None }).await {
        cframe_protocol::v1::Reply::Certs(rows) => rows,
        other => panic!("{other:?}"),
    };
    let own = rows.iter().find(|row| row.id.role.kind() == "admin").unwrap();
    let controller = rows.iter().find(|row| row.id.role.kind() == "controller").unwrap();
    let revoke = Call::CertRevoke { serial: controller.serial, reason: String::new() };
    let error = world.refusal(revoke).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("controller"), "{error}");
    let revoke = Call::CertRevoke { serial: own.serial, reason: String::new() };
    assert_eq!(world.refusal(revoke).await.code, ErrorCode::Conflict);
    let del = Call::AdminDel { name: label("root") };
    assert_eq!(world.refusal(del).await.code, ErrorCode::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_does_not_revoke_its_own_issuer() {
    let world = World::start().await;
    let own = world.data.issuer().unwrap().ca().spki_sha256();
    let error = world.refusal(Call::IssuerRevoke { fingerprint: own }).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    let other = cframe_pki::Fingerprint::of_spki(b"another controller's");
    let changed = world.change(Call::IssuerRevoke { fingerprint: other }).await;
    assert_eq!(changed.version.mesh, 2);
    // So many that they would not fit a frame are not taken.
    let admin = AdminConnection::connect(&world.admin).await.unwrap();
    let revoke = async |number: u16| {
        let fingerprint = cframe_pki::Fingerprint::of_spki(&number.to_be_bytes());
        let replies = admin.call(Call::IssuerRevoke { fingerprint }, false).await.unwrap();
        replies.collect().await
    };
    for number in 1..256 {
        revoke(number).await.unwrap();
    }
    let error = crate::world::refused(revoke(256).await);
    assert_eq!(error.code, ErrorCode::Conflict);
    world.add_namespace("prod").await;
    world.add_edge("prod", "a", "10.1.0.0/16").await;
    let mut edge = Edge::connect(world.join("prod", "a").await.client(), None);
    edge.until(|state| state.trust.revoked_issuers.len() == 256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_a_restored_store_does_not_know_is_denied_with_its_edge_too() {
    use cframe_controller::model::record::Key;
    use cframe_store::{Op, Store, Txn};
    let mut world = World::with_edges(&["a", "b"]).await;
    let (a, b) = (world.join("prod", "a").await, world.join("prod", "b").await);
    world.stop().await;
    // As after a restore of a backup from before the join.
    let store = world.data.open_store().await.unwrap();
    let forget = Op::Delete { key: Key::Cert(a.serial()).to_string() };
    store.commit(Txn { compares: Vec::new(), ops: vec![forget] }).await.unwrap();
    store.close().await;
    world.start_again().await;

    let mut edge = Edge::connect(a.client(), None);
    edge.until(|_| true).await;
    world.change(Call::EdgeDel { namespace: label("prod"), name: label("a") }).await;
    let mut other = Edge::connect(b.client(), None);
    other.until(|state| state.denied.iter().any(|denied| denied.serial == a.serial())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_outlives_the_certificate_that_it_was_made_with() {
    let world = World::with_edges(&["a"]).await;
    let a = world.join("prod", "a").await;
    let not_after = a.credentials().identity().unwrap().not_after;
    // Two seconds before the end. Handshakes go by the real clock, and are let through.
    let ahead = not_after - cframe_pki::unix_now() - 2;
    world.ahead.store(ahead, Ordering::SeqCst);
    let begun = Instant::now();
    let admin = AdminConnection::connect(&world.admin).await.unwrap();
    admin.call(Call::Status, false).await.unwrap().collect().await.unwrap();
    let mut edge = Edge::connect(a.client(), None);
    edge.until(|_| true).await;
    edge.event(|seen| matches!(seen, Seen::Ended(_))).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let later = async {
        while let Ok(replies) = admin.call(Call::Status, false).await {
            if replies.collect().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(4), later).await.unwrap();
}
