//! What admins may do.

use cframe_protocol::{
    session::{FrameWriter, transport},
    v1::{AdminRequest, Call, ErrorCode, Reply},
};

use crate::support::{
    admin::{AdminCalls, call_on, refused},
    calls::{edge_del, label, route_add},
    controller::TestController,
    credentials::new_csr,
    wait::in_time,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_may_make_no_admin_call() {
    let controller = TestController::with_edges(&["a"]).await;
    let edge = controller.join("a").await.client();
    for call in [
        Call::Version,
        Call::Status,
        Call::EdgeList { namespace: None },
        Call::Backup,
        edge_del("a"),
    ] {
        let error = edge.refusal(call.clone()).await;
        assert_eq!(error.code, ErrorCode::NotAllowed, "{}", call.name());
        assert!(error.message.contains(call.name()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_admin_reads_and_does_not_change() {
    let controller = TestController::with_edges(&["a"]).await;
    let enrolled = controller.enrol_admin("reader", true).await.unwrap();
    assert_eq!(enrolled.enrolled.controllers[0].to_string(), controller.control.to_string());
    let reader = enrolled.client();
    reader.call(Call::Status).await.unwrap();
    reader.call(Call::EdgeList { namespace: Some(label("prod")) }).await.unwrap();
    for write in [
        edge_del("a"),
        Call::NamespaceDel { name: label("prod"), cascade: true },
        Call::Backup,
        Call::AdminDel { name: label("root") },
    ] {
        assert_eq!(reader.refusal(write).await.code, ErrorCode::NotAllowed);
    }
    // It may renew its own certificate, and stays read-only.
    let renewed = reader.enrol_admin("reader", false).await.unwrap().client();
    let del = Call::AdminDel { name: label("root") };
    assert_eq!(renewed.refusal(del).await.code, ErrorCode::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_admin_is_no_longer_one() {
    let controller = TestController::start().await;
    let other = controller.enrol_admin("other", false).await.unwrap().client();
    other.call(Call::Status).await.unwrap();
    controller.change(Call::AdminDel { name: label("other") }).await;
    assert_eq!(other.refusal(Call::Status).await.code, ErrorCode::NotAllowed);
    // Adding the name again does not bring the certificate back.
    controller.enrol_admin("other", false).await.unwrap();
    assert_eq!(other.refusal(Call::Status).await.code, ErrorCode::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_is_checked_at_every_call() {
    let controller = TestController::start().await;
    let other = controller.enrol_admin("other", false).await.unwrap().client();
    let connection = other.admin_connection().await;
    call_on(&connection, Call::Version).await.unwrap();
    controller.change(Call::AdminDel { name: label("other") }).await;
    let error = refused(call_on(&connection, Call::Version).await);
    assert_eq!(error.code, ErrorCode::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_renews_without_help_but_not_without_limit() {
    let controller = TestController::start().await;
    let renew = || Call::AdminAdd { name: label("root"), csr: new_csr(), read_only: true };
    for _ in 1..8 {
        match controller.reply(renew()).await {
            Reply::AdminEnrolled(enrolled) => {
                assert!(!enrolled.read_only, "a renewal changes no right");
            }
            other => panic!("{other:?}"),
        }
    }
    let error = controller.refusal(renew()).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("cert revoke"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_nobody_reads_blocks_no_call() {
    let controller = TestController::with_edges(&["a"]).await;
    let admin = controller.admin_connection().await;
    // So many that the reply has more pieces than are queued for a slow admin.
    for index in 0..450 {
        let prefix = format!("10.{}.{}.0/24", 100 + index / 256, index % 256);
        call_on(&admin, route_add(&format!("r{index}"), &prefix, "a")).await.unwrap();
    }
    let connection = controller.admin.connect().await.unwrap();
    // More calls than are served at once: each must make room for another.
    for _ in 0..3 * transport::ADMIN_STREAMS {
        let (send, mut receive) = in_time(connection.connection.open_bi()).await.unwrap();
        receive.stop(0u32.into()).unwrap();
        let mut writer = FrameWriter::new(send);
        let call = Call::RouteList { namespace: None };
        writer.send(&AdminRequest { call, dry_run: false }).await.unwrap();
        writer.finish();
    }
}
