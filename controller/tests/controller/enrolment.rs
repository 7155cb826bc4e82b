use cframe_pki::{
    key::PrivateKey,
    token::{JoinToken, TokenSecret},
};
use cframe_protocol::{
    session::{Command, EnrollFailure},
    v1::{Call, CertState, ErrorCode, Reply},
};
use tokio::task::JoinSet;

use crate::world::{Edge, Seen, World, join, label};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_joins_with_one_token_one_has_a_certificate() {
    let world = World::with_edges(&["a"]).await;
    let token = world.token("prod", "a", false).await;
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
    assert_eq!(certs(&world, "prod").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joined_edge_gets_its_state_and_nothing_of_another_namespace() {
    let world = World::with_edges(&["a", "b"]).await;
    world.add_namespace("other").await;
    world.add_edge("other", "c", "10.9.0.0/16").await;
    let identity = world.join("prod", "a").await;
    assert_eq!(identity.enrolled.site_prefixes, ["10.1.0.0/16".parse().unwrap()]);
    assert_eq!(identity.enrolled.listen_port, 58423);
    let mut edge = Edge::connect(identity.client(), None);
    let state = edge.until(|_| true).await;
    let names: Vec<&str> = state.edges.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(state.prefixes.len(), 2);
    assert_eq!(state.controllers.len(), 1);
    world.add_edge("other", "d", "10.8.0.0/16").await;
    let route = world.change(crate::world::route_add("r", "10.244.0.0/16", "b")).await;
    let state = edge.until(|state| state.version == route.version).await;
    assert_eq!((state.edges.len(), state.prefixes.len()), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_and_an_unknown_token_are_told_the_same() {
    let world = World::with_edges(&["a"]).await;
    let token = world.token("prod", "a", false).await;
    let wrong = JoinToken { secret: TokenSecret::from_bytes([1; 16]), ..token.clone() };
    let unknown =
        JoinToken { id: cframe_pki::token::TokenId::from_bytes([9; 16]), ..token.clone() };
    let mut told = Vec::new();
    for token in [wrong, unknown] {
        match join(&token).await {
            Err(EnrollFailure::Refused(error)) => told.push(error),
            other => panic!("{:?}", other.err()),
        }
    }
    assert_eq!(told[0], told[1]);
    // Neither used it up.
    join(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_void() {
    let world = World::with_edges(&["a"]).await;
    let token = world.token("prod", "a", false).await;
    let Reply::Tokens(rows) = world.reply(Call::TokenList { namespace: None }).await else {
        panic!("tokens")
    };
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].created_by, "root");
    world.change(Call::TokenRevoke { id: rows[0].id.clone() }).await;
    assert!(matches!(join(&token).await, Err(EnrollFailure::Refused(_))));
    let again = world.refusal(Call::TokenRevoke { id: rows[0].id.clone() }).await;
    assert_eq!(again.code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_again_takes_a_token_for_that_and_denies_the_former_certificate() {
    let world = World::with_edges(&["a", "b"]).await;
    let first = world.join("prod", "a").await;
    let plain = Call::TokenCreate {
        namespace: label("prod"),
        edge: label("a"),
        ttl_secs: 60,
        rejoin: false,
    };
    let error = world.refusal(plain).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("--rejoin"), "{error}");

    let mut old = Edge::connect(first.client(), None);
    old.until(|_| true).await;
    let token = world.token("prod", "a", true).await;
    let second = join(&token).await.unwrap();
    old.event(|seen| matches!(seen, Seen::Goodbye(_))).await;
    old.event(|seen| matches!(seen, Seen::Ended(why) if why.contains("refuses"))).await;

    let mut new = Edge::connect(second.client(), None);
    let state = new.until(|_| true).await;
    assert!(state.denied.iter().any(|denied| denied.serial == first.serial()));
    let states: Vec<_> = certs(&world, "prod").await.into_iter().map(|row| row.state).collect();
    let revoked = states.iter().filter(|state| matches!(state, CertState::Revoked { .. })).count();
    assert_eq!((states.len(), revoked), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_plain_tokens_of_one_edge_make_one_certificate() {
    let world = World::with_edges(&["a"]).await;
    let (one, other) =
        (world.token("prod", "a", false).await, world.token("prod", "a", false).await);
    join(&one).await.unwrap();
    match join(&other).await {
        Err(EnrollFailure::Refused(error)) => assert_eq!(error.code, ErrorCode::Conflict),
        result => panic!("{:?}", result.err()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_over_the_session_for_a_new_key() {
    let world = World::with_edges(&["a"]).await;
    let identity = world.join("prod", "a").await;
    let mut edge = Edge::connect(identity.client(), None);
    edge.until(|_| true).await;
    world.change(Call::CertRenew { namespace: label("prod"), edge: label("a") }).await;
    edge.event(|seen| matches!(seen, Seen::RenewNow)).await;

    let key = PrivateKey::generate().unwrap();
    let csr = key.csr().unwrap().to_vec();
    edge.commands.send(Command::Renew { csr }).await.unwrap();
    let renewed = edge.event(|seen| matches!(seen, Seen::Renewed(_))).await;
    let Seen::Renewed(Ok(enrolled)) = renewed else { panic!("{renewed:?}") };
    let renewed = crate::world::Identity { enrolled, key };
    assert_ne!(renewed.serial(), identity.serial());
    let mut again = Edge::connect(renewed.client(), None);
    again.until(|_| true).await;
    // The session before is the same edge's.
    edge.event(|seen| matches!(seen, Seen::Goodbye(cframe_protocol::v1::GoodbyeReason::Replaced)))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_a_request_needs_an_edge_without_one() {
    let world = World::with_edges(&["a"]).await;
    let csr = || PrivateKey::generate().unwrap().csr().unwrap().to_vec();
    let call =
        |edge: &str| Call::CertEnroll { namespace: label("prod"), edge: label(edge), csr: csr() };
    let missing = world.refusal(call("aa")).await;
    assert_eq!(
        (missing.code, missing.hint.as_deref()),
        (ErrorCode::NotFound, Some("did you mean a?"))
    );
    assert!(matches!(world.reply(call("a")).await, Reply::Enrolled(_)));
    assert_eq!(world.refusal(call("a")).await.code, ErrorCode::Conflict);
    let garbage = Call::CertEnroll {
        namespace: label("prod"),
        edge: label("a"),
        csr: b"no request".to_vec(),
    };
    assert_eq!(world.refusal(garbage).await.code, ErrorCode::Invalid);
}

pub(crate) async fn certs(world: &World, namespace: &str) -> Vec<cframe_protocol::v1::CertRow> {
    match world.reply(Call::CertList { namespace: Some(label(namespace)) }).await {
        Reply::Certs(rows) => rows,
        other => panic!("{other:?}"),
    }
}
