use cframe_pki::{CertificateDer, key::PrivateKey, tls::Credentials};
use cframe_protocol::{
    session::{AdminConnection, Client, FrameWriter, admin_call, transport},
    v1::{AdminEnrolled, AdminRequest, Call, ErrorCode, Reply},
};
use tokio::time::timeout;

use crate::world::{PATIENCE, World, client, label, refused, route_add};

async fn add(world: &World, by: &Client, name: &str, read_only: bool) -> Client {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr().unwrap().to_vec();
    let call = Call::AdminAdd { name: label(name), csr, read_only };
    let mut replies = admin_call(by, call, false, PATIENCE).await.unwrap();
    let Reply::AdminEnrolled(AdminEnrolled { chain, trust, controllers, .. }) = replies.remove(0)
    else {
        panic!("a certificate")
    };
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    assert_eq!(controllers[0].to_string(), world.control.to_string());
    client(&Credentials { chain, key }, trust, controllers)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_may_make_no_admin_call() {
    let world = World::with_edges(&["a"]).await;
    let edge = world.join("prod", "a").await.client();
    for call in [
        Call::Version,
        Call::Status,
        Call::EdgeList { namespace: None },
        Call::Backup,
        Call::EdgeDel { namespace: label("prod"), name: label("a") },
    ] {
        let error = refused(admin_call(&edge, call.clone(), false, PATIENCE).await);
        assert_eq!(error.code, ErrorCode::NotAllowed, "{}", call.name());
        assert!(error.message.contains(call.name()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_admin_looks_and_does_not_change() {
    let world = World::with_edges(&["a"]).await;
    let reader = add(&world, &world.admin, "reader", true).await;
    let call = |call| admin_call(&reader, call, false, PATIENCE);
    call(Call::Status).await.unwrap();
    call(Call::EdgeList { namespace: Some(label("prod")) }).await.unwrap();
    for write in [
        Call::EdgeDel { namespace: label("prod"), name: label("a") },
        Call::NamespaceDel { name: label("prod"), cascade: true },
        Call::Backup,
        Call::AdminDel { name: label("root") },
    ] {
        assert_eq!(refused(call(write).await).code, ErrorCode::NotAllowed);
    }
    // It renews its own certificate all the same, and stays what it is.
    let renewed = add(&world, &reader, "reader", false).await;
    let del = Call::AdminDel { name: label("root") };
    assert_eq!(
        refused(admin_call(&renewed, del, false, PATIENCE).await).code,
        ErrorCode::NotAllowed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_admin_is_one_no_longer() {
    let world = World::start().await;
    let other = add(&world, &world.admin, "other", false).await;
    admin_call(&other, Call::Status, false, PATIENCE).await.unwrap();
    world.change(Call::AdminDel { name: label("other") }).await;
    let error = refused(admin_call(&other, Call::Status, false, PATIENCE).await);
    assert_eq!(error.code, ErrorCode::NotAllowed);
    // Adding the name again does not bring the certificate back.
    add(&world, &world.admin, "other", false).await;
    let error = refused(admin_call(&other, Call::Status, false, PATIENCE).await);
    assert_eq!(error.code, ErrorCode::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stands_is_checked_at_every_call() {
    let world = World::start().await;
    let other = add(&world, &world.admin, "other", false).await;
    let standing = AdminConnection::connect(&other).await.unwrap();
    let ask = || async { standing.call(Call::Version, false).await.unwrap().collect().await };
    ask().await.unwrap();
    world.change(Call::AdminDel { name: label("other") }).await;
    assert_eq!(refused(ask().await).code, ErrorCode::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_renews_by_itself_and_not_without_end() {
    let world = World::start().await;
    let renew = || {
        let csr = PrivateKey::generate().unwrap().csr().unwrap().to_vec();
        Call::AdminAdd { name: label("root"), csr, read_only: true }
    };
    for _ in 1..8 {
        let Reply::AdminEnrolled(enrolled) = world.reply(renew()).await else { panic!("renewed") };
        assert!(!enrolled.read_only, "a renewal changes no right");
    }
    let error = world.refusal(renew()).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("cert revoke"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_takes_holds_no_call() {
    let world = World::with_edges(&["a"]).await;
    let admin = AdminConnection::connect(&world.admin).await.unwrap();
    // More pieces than wait for a slow admin.
    for index in 0..450 {
        let prefix = format!("10.{}.{}.0/24", 100 + index / 256, index % 256);
        let add = admin.call(route_add(&format!("r{index}"), &prefix, "a"), false).await.unwrap();
        add.collect().await.unwrap();
    }
    let connection = world.admin.connect().await.unwrap();
    // More calls than are served at once: each must make room for another.
    for _ in 0..3 * transport::ADMIN_STREAMS {
        let opening = connection.connection.open_bi();
        let (send, mut receive) = timeout(PATIENCE, opening).await.expect("there is room").unwrap();
        receive.stop(0u32.into()).unwrap();
        let mut writer = FrameWriter::new(send);
        let call = Call::RouteList { namespace: None };
        writer.send(&AdminRequest { call, dry_run: false }).await.unwrap();
        writer.finish();
    }
}
