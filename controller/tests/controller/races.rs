//! What one controller decides before it receives a change that another has written: the second to write must decide
//! again. Most are about a certificate that one issues while the other removes or revokes its holder.

use cframe_pki::Serial;
use cframe_protocol::{
    session::Client,
    v1::{Call, CertState, ErrorCode, Reply},
};

use crate::support::{
    admin::AdminCalls,
    calls::{edge_del, label},
    controller::TestController,
    credentials::EdgeIdentity,
    edge::{TestEdge, join, refused_join},
    wait::until,
};

/// Renews an edge's certificate through this controller.
async fn renew(controller: &TestController, identity: &EdgeIdentity) -> Serial {
    let mut edge = TestEdge::online(controller.only(identity)).await;
    edge.renew().await.serial()
}

/// Adds an admin who knows only this controller.
async fn add_admin(controller: &TestController, name: &str) -> Client {
    let enrolled = controller.enrol_admin(name, false).await.unwrap();
    controller.only_here(enrolled.client())
}

async fn is_revoked(controller: &TestController, serial: Serial) -> bool {
    match controller.reply(Call::CertShow { serial }).await {
        Reply::Certs(rows) => matches!(rows[0].state, CertState::Revoked { .. }),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_elsewhere_does_not_outlive_the_edge() {
    let cascade = Call::NamespaceDel { name: label("prod"), cascade: true };
    for removal in [edge_del("x"), cascade] {
        let [a, b] = TestController::pair(&["x"]).await;
        let identity = a.join("x").await;
        a.hold_watches();
        let renewed = renew(&b, &identity).await;
        a.too_late(a.change(removal)).await;
        for serial in [identity.serial(), renewed] {
            until(async || is_revoked(&b, serial).await).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_elsewhere_does_not_outlive_a_second_join() {
    let [a, b] = TestController::pair(&["x"]).await;
    let identity = a.join("x").await;
    let mut token = a.rejoin_token("x").await;
    token.addresses = vec![a.enroll.to_string()];
    a.hold_watches();
    let renewed = renew(&b, &identity).await;
    let again = a.too_late(join(&token)).await.unwrap();
    until(async || is_revoked(&b, renewed).await).await;
    assert!(!is_revoked(&b, again.serial()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tokens_at_two_controllers_one_lets_the_edge_join() {
    let [a, b] = TestController::pair(&["x"]).await;
    let (mut at_a, mut at_b) = (a.token("x").await, a.token("x").await);
    at_a.addresses = vec![a.enroll.to_string()];
    at_b.addresses = vec![b.enroll.to_string()];
    until(async || b.tokens().await.len() == 2).await;
    a.hold_watches();
    join(&at_b).await.unwrap();
    assert_eq!(a.too_late(refused_join(&at_a)).await.code, ErrorCode::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_is_removed_renews_nothing_whichever_comes_first() {
    let [a, b] = TestController::pair(&[]).await;
    let mallory = add_admin(&b, "mallory").await;
    let trudy = add_admin(&b, "trudy").await;
    let del = |name| Call::AdminDel { name: label(name) };
    until(async || a.admins().await.len() == 3).await;
    // First the renewal.
    a.hold_watches();
    let renewed = mallory.enrol_admin("mallory", false).await.unwrap().serial();
    a.too_late(a.change(del("mallory"))).await;
    until(async || is_revoked(&b, renewed).await).await;
    // First the removal.
    let trudy = a.only_here(trudy);
    a.hold_watches();
    b.change(del("trudy")).await;
    let renewed = a.too_late(trudy.enrol_admin("trudy", false)).await;
    assert!(renewed.is_err(), "{:?}", renewed.map(|renewed| renewed.serial()));
    let admins = b.admins().await;
    assert_eq!(admins.len(), 1, "{admins:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_is_removed_adds_nobody() {
    let [a, b] = TestController::pair(&[]).await;
    let mallory = add_admin(&b, "mallory").await;
    until(async || a.admins().await.len() == 2).await;
    let mallory = a.only_here(mallory);
    a.hold_watches();
    b.change(Call::AdminDel { name: label("mallory") }).await;
    let added = a.too_late(mallory.enrol_admin("trudy", false)).await;
    assert!(added.is_err(), "{:?}", added.map(|added| added.serial()));
    // Neither does the controller that would have added her know her.
    until(async || a.admins().await.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_names_the_certificate_that_another_controller_has_just_issued() {
    let [a, b] = TestController::pair(&["x"]).await;
    let identity = a.join("x").await;
    a.hold_watches();
    let renewed = renew(&b, &identity).await;
    let revoke = Call::CertRevoke { serial: identity.serial(), reason: "stolen".to_owned() };
    let changed = a.too_late(a.change(revoke)).await;
    let named = |warning: &String| warning.contains(&renewed.to_string());
    assert!(changed.warnings.iter().any(named), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_has_just_started_is_not_removed() {
    let [a, mut b] = TestController::pair(&[]).await;
    b.stop().await;
    until(async || a.status().await.controllers.len() == 1).await;
    a.hold_watches();
    b.start_again().await;
    until(async || b.status().await.controllers.len() == 2).await;
    let del = Call::ControllerDel { name: label("b"), revoke_issuer: false };
    let error = a.too_late(a.refusal(del)).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("runs"), "{error}");
}
