//! What one controller decides upon what another, of which it has not heard yet, has changed: whoever comes second
//! decides anew. Most are about a certificate that the one issues while the other takes its holder away.

use cframe_pki::{CertificateDer, Serial, key::PrivateKey, tls::Credentials};
use cframe_protocol::{
    session::{CallFailure, Client, Command, EnrollFailure, admin_call},
    v1::{AdminEnrolled, Call, CertState, Endpoint, Enrolled, ErrorCode, Reply},
};

use crate::{
    pair::{Member, Pair, until},
    world::{Edge, Identity, PATIENCE, Seen, client, join, label},
};

fn csr() -> Vec<u8> {
    PrivateKey::generate().unwrap().csr().unwrap().to_vec()
}

/// Has an edge's certificate renewed by a controller.
async fn renew(member: &Member, identity: &Identity) -> Serial {
    let mut edge = Edge::connect(member.only(identity), None);
    edge.until(|_| true).await;
    edge.commands.send(Command::Renew { csr: csr() }).await.unwrap();
    let renewed = edge.event(|seen| matches!(seen, Seen::Renewed(_))).await;
    let Seen::Renewed(Ok(Enrolled { chain, .. })) = renewed else { panic!("{renewed:?}") };
    serial(chain)
}

fn serial(chain: Vec<Vec<u8>>) -> Serial {
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    cframe_pki::verifier::peer_identity(&chain).unwrap().serial
}

async fn is_revoked(member: &Member, serial: Serial) -> bool {
    let Reply::Certs(rows) = member.reply(Call::CertShow { serial }).await else { panic!("a row") };
    matches!(rows[0].state, CertState::Revoked { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_elsewhere_does_not_outlive_the_edge() {
    let del = Call::EdgeDel { namespace: label("prod"), name: label("x") };
    let cascade = Call::NamespaceDel { name: label("prod"), cascade: true };
    for removal in [del, cascade] {
        let pair = Pair::with_edges(&["x"]).await;
        let identity = pair.join("x").await;
        pair.a.held.send_replace(true);
        let renewed = renew(&pair.b, &identity).await;
        pair.a.too_late(pair.a.change(removal)).await;
        for serial in [identity.serial(), renewed] {
            until(async || is_revoked(&pair.b, serial).await).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_elsewhere_does_not_outlive_a_second_join() {
    let pair = Pair::with_edges(&["x"]).await;
    let identity = pair.join("x").await;
    let (namespace, edge) = (label("prod"), label("x"));
    let call = Call::TokenCreate { namespace, edge, ttl_secs: 600, rejoin: true };
    let Reply::TokenMade(made) = pair.a.reply(call).await else { panic!("a token") };
    let mut token: cframe_pki::token::JoinToken = made.token.parse().unwrap();
    token.addresses = vec![pair.a.enroll.to_string()];
    pair.a.held.send_replace(true);
    let renewed = renew(&pair.b, &identity).await;
    let again = pair.a.too_late(join(&token)).await.unwrap();
    until(async || is_revoked(&pair.b, renewed).await).await;
    assert!(!is_revoked(&pair.b, again.serial()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tokens_at_two_controllers_one_has_the_edge_join() {
    let pair = Pair::with_edges(&["x"]).await;
    let (mut here, mut there) = (pair.a.token("x").await, pair.a.token("x").await);
    here.addresses = vec![pair.a.enroll.to_string()];
    there.addresses = vec![pair.b.enroll.to_string()];
    until(async || {
        let call = Call::TokenList { namespace: None };
        let Reply::Tokens(rows) = pair.b.reply(call).await else { panic!("rows") };
        rows.len() == 2
    })
    .await;
    pair.a.held.send_replace(true);
    join(&there).await.unwrap();
    match pair.a.too_late(join(&here)).await {
        Err(EnrollFailure::Refused(error)) => assert_eq!(error.code, ErrorCode::Conflict),
        other => panic!("{:?}", other.map(|joined| joined.serial())),
    }
}

async fn admin(by: &Client, name: &str) -> Result<(Client, Serial), CallFailure> {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr().unwrap().to_vec();
    let call = Call::AdminAdd { name: label(name), csr, read_only: false };
    let Reply::AdminEnrolled(AdminEnrolled { chain, trust, .. }) =
        admin_call(by, call, false, PATIENCE).await?.remove(0)
    else {
        panic!("a certificate")
    };
    let serial = serial(chain.clone());
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    Ok((client(&Credentials { chain, key }, trust, by.addresses.clone()), serial))
}

/// Until a controller knows so many.
async fn until_admins(member: &Member, count: usize) {
    until(async || {
        let Reply::Admins(rows) = member.reply(Call::AdminList).await else { panic!("rows") };
        rows.len() == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_is_removed_renews_nothing_whichever_comes_first() {
    let pair = Pair::with_edges(&[]).await;
    let (mallory, _) = admin(&pair.b.admin, "mallory").await.unwrap();
    let (trudy, _) = admin(&pair.b.admin, "trudy").await.unwrap();
    let del = |name| Call::AdminDel { name: label(name) };
    until_admins(&pair.a, 3).await;
    // The renewal first.
    pair.a.held.send_replace(true);
    let (_, renewed) = admin(&mallory, "mallory").await.unwrap();
    pair.a.too_late(pair.a.change(del("mallory"))).await;
    until(async || is_revoked(&pair.b, renewed).await).await;
    // The removal first.
    let at = vec![Endpoint::from(pair.a.control)];
    let trudy = Client { addresses: at, ..trudy };
    pair.a.held.send_replace(true);
    pair.b.change(del("trudy")).await;
    let renewed = pair.a.too_late(admin(&trudy, "trudy")).await;
    assert!(renewed.is_err(), "{:?}", renewed.map(|(_, serial)| serial));
    let Reply::Admins(rows) = pair.b.reply(Call::AdminList).await else { panic!("rows") };
    assert_eq!(rows.len(), 1, "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_who_is_removed_adds_nobody() {
    let pair = Pair::with_edges(&[]).await;
    let (mallory, _) = admin(&pair.b.admin, "mallory").await.unwrap();
    until_admins(&pair.a, 2).await;
    let at = vec![Endpoint::from(pair.a.control)];
    let mallory = Client { addresses: at, ..mallory };
    pair.a.held.send_replace(true);
    pair.b.change(Call::AdminDel { name: label("mallory") }).await;
    let added = pair.a.too_late(admin(&mallory, "trudy")).await;
    assert!(added.is_err(), "{:?}", added.map(|(_, serial)| serial));
    // Of this one too, who would have added her.
    until_admins(&pair.a, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_names_the_certificate_that_another_controller_has_just_issued() {
    let pair = Pair::with_edges(&["x"]).await;
    let identity = pair.join("x").await;
    pair.a.held.send_replace(true);
    let renewed = renew(&pair.b, &identity).await;
    let revoke = Call::CertRevoke { serial: identity.serial(), reason: "stolen".to_owned() };
    let changed = pair.a.too_late(pair.a.change(revoke)).await;
    let named = |warning: &String| warning.contains(&renewed.to_string());
    assert!(changed.warnings.iter().any(named), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_has_just_started_is_not_removed() {
    let mut pair = Pair::with_edges(&[]).await;
    pair.b.stop().await;
    until(async || pair.a.status().await.controllers.len() == 1).await;
    pair.a.held.send_replace(true);
    pair.b.start().await;
    until(async || pair.b.status().await.controllers.len() == 2).await;
    let del = Call::ControllerDel { name: label("b"), revoke_issuer: false };
    let error = pair.a.too_late(pair.a.refusal(del)).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("runs"), "{error}");
}
