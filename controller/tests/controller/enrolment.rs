//! How edges get and renew their certificates.

use cframe_pki::token::{JoinToken, TokenId, TokenSecret};
use cframe_protocol::{
    session::EnrollFailure,
    v1::{Call, CertState, ErrorCode, GoodbyeReason, Reply},
};
use tokio::task::JoinSet;

use crate::support::{
    admin::AdminCalls,
    calls::{label, route_add, token_create},
    controller::TestController,
    credentials::new_csr,
    edge::{SessionEvent, TestEdge, join, refused_join},
};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_joins_with_one_token_one_has_a_certificate() {
    let controller = TestController::with_edges(&["a"]).await;
    let token = controller.token("a").await;
    let mut joins = JoinSet::new();
    for _ in 0..100 {
        let token = token.clone();
        joins.spawn(async move { join(&token).await });
    }
    let (mut joined, mut refused) = (0, 0);
    for result in joins.join_all().await {
        match result {
            Ok(_) => joined += 1,
            Err(EnrollFailure::Refused(error)) => {
                assert_eq!(error.code, ErrorCode::NotAllowed, "{error}");
                assert!(error.message.contains("was used"), "{error}");
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((joined, refused), (1, 99));
    assert_eq!(controller.certs(Some("prod")).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joined_edge_gets_its_state_and_nothing_from_another_namespace() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    controller.add_namespace("other").await;
    controller.add_edge("other", "c", "10.9.0.0/16").await;
    let identity = controller.join("a").await;
    assert_eq!(identity.enrolled.site_prefixes, ["10.1.0.0/16".parse().unwrap()]);
    assert_eq!(identity.enrolled.listen_port, 58423);
    let mut edge = TestEdge::connect(identity.client(), None);
    let state = edge.any_state().await;
    let names: Vec<&str> = state.edges.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(state.prefixes.len(), 2);
    assert_eq!(state.controllers.len(), 1);
    controller.add_edge("other", "d", "10.8.0.0/16").await;
    let route = controller.change(route_add("r", "10.244.0.0/16", "b")).await;
    let state = edge.state(|state| state.version == route.version).await;
    assert_eq!((state.edges.len(), state.prefixes.len()), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_and_an_unknown_token_get_the_same_error() {
    let controller = TestController::with_edges(&["a"]).await;
    let token = controller.token("a").await;
    let wrong = JoinToken { secret: TokenSecret::from_bytes([1; 16]), ..token.clone() };
    let unknown = JoinToken { id: TokenId::from_bytes([9; 16]), ..token.clone() };
    assert_eq!(refused_join(&wrong).await, refused_join(&unknown).await);
    // Neither of them used up the token.
    join(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_no_longer_valid() {
    let controller = TestController::with_edges(&["a"]).await;
    let token = controller.token("a").await;
    let rows = controller.tokens().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].created_by, "root");
    controller.change(Call::TokenRevoke { id: rows[0].id.clone() }).await;
    refused_join(&token).await;
    let again = controller.refusal(Call::TokenRevoke { id: rows[0].id.clone() }).await;
    assert_eq!(again.code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_again_needs_a_rejoin_token_and_denies_the_previous_certificate() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    let first = controller.join("a").await;
    let error = controller.refusal(token_create("a", false)).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("--rejoin"), "{error}");

    let mut old = TestEdge::online(first.client()).await;
    let token = controller.rejoin_token("a").await;
    let second = join(&token).await.unwrap();
    old.event(|event| matches!(event, SessionEvent::Goodbye(_))).await;
    old.refused().await;

    let mut new = TestEdge::connect(second.client(), None);
    let state = new.any_state().await;
    assert!(state.denied.iter().any(|denied| denied.serial == first.serial()));
    let states: Vec<_> =
        controller.certs(Some("prod")).await.into_iter().map(|row| row.state).collect();
    let revoked = states.iter().filter(|state| matches!(state, CertState::Revoked { .. })).count();
    assert_eq!((states.len(), revoked), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tokens_for_one_edge_make_one_certificate() {
    let controller = TestController::with_edges(&["a"]).await;
    let (one, other) = (controller.token("a").await, controller.token("a").await);
    join(&one).await.unwrap();
    assert_eq!(refused_join(&other).await.code, ErrorCode::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_over_the_session_for_a_new_key() {
    let controller = TestController::with_edges(&["a"]).await;
    let identity = controller.join("a").await;
    let mut edge = TestEdge::online(identity.client()).await;
    controller.change(Call::CertRenew { namespace: label("prod"), edge: label("a") }).await;
    edge.event(|event| matches!(event, SessionEvent::RenewNow)).await;

    let renewed = edge.renew().await;
    assert_ne!(renewed.serial(), identity.serial());
    let _again = TestEdge::online(renewed.client()).await;
    // The controller knows that the earlier session is the same edge's.
    edge.goodbye(GoodbyeReason::Replaced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_signed_only_for_an_edge_without_a_certificate() {
    let controller = TestController::with_edges(&["a"]).await;
    let enroll =
        |edge: &str, csr| Call::CertEnroll { namespace: label("prod"), edge: label(edge), csr };
    let missing = controller.refusal(enroll("aa", new_csr())).await;
    assert_eq!(
        (missing.code, missing.hint.as_deref()),
        (ErrorCode::NotFound, Some("did you mean a?"))
    );
    assert!(matches!(controller.reply(enroll("a", new_csr())).await, Reply::Enrolled(_)));
    assert_eq!(controller.refusal(enroll("a", new_csr())).await.code, ErrorCode::Conflict);
    let garbage = enroll("a", b"no request".to_vec());
    assert_eq!(controller.refusal(garbage).await.code, ErrorCode::Invalid);
}
