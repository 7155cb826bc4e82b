//! Controllers that are revoked or removed, and their issuing CAs.

use std::time::Duration;

use cframe_controller::{
    RunError,
    model::record::{self, IssuerRecord, Key},
    serve::local,
};
use cframe_pki::{Fingerprint, bundle::TrustBundle, identity::Role};
use cframe_protocol::{
    session::{CallFailure, Client, admin_call},
    v1::{
        Call, CertRow, CertState, EdgeLiveness, Endpoint, ErrorCode, GoodbyeReason, IssuerRow,
        Version,
    },
};
use cframe_store::Op;

use crate::support::{
    admin::AdminCalls,
    calls::label,
    controller::TestController,
    credentials::client,
    edge::{SessionEvent, TestEdge},
    wait::until,
    writes::uncompared,
};

/// A controller answers a peer that it refuses within this.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_controllers_certificate_allows_no_admin_call_and_no_session() {
    let [a, b] = TestController::pair(&["x"]).await;
    let controller = client_of(&b, &a);
    for call in [
        Call::NamespaceDel { name: label("prod"), cascade: true },
        Call::EdgeList { namespace: None },
        Call::CertList { namespace: None },
        Call::Backup,
        Call::Wait { namespace: label("prod"), version: Version::default(), timeout_secs: 1 },
        Call::ControllerDel { name: label("a"), revoke_issuer: false },
    ] {
        let answer = admin_call(&controller, call.clone(), false, CALL_TIMEOUT);
        match answer.await {
            Err(CallFailure::Refused(error)) => {
                assert_eq!(error.code, ErrorCode::NotAllowed, "{call:?}");
            }
            other => panic!("{call:?}: {other:?}"),
        }
    }
    // An admin may not make the calls that controllers make to each other.
    let sessions = Call::Sessions { namespace: None, edge: None, brief: false };
    assert_eq!(a.refusal(sessions).await.code, ErrorCode::NotAllowed);
    let mut edge = TestEdge::connect(controller, None);
    edge.event(|event| matches!(event, SessionEvent::Ended(_))).await;
    assert!(edge.desired.borrow().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_controller_is_cut_off_by_the_other_and_by_edges() {
    let [a, mut b] = TestController::pair(&["x"]).await;
    let x = a.join("x").await;
    let mut edge = b.movable_edge(&x).await;
    let before = client_of(&b, &a);
    let own = a.certs(None).await.into_iter().find(is_of_b).unwrap();
    a.change(Call::CertRevoke { serial: own.serial, reason: "stolen".to_owned() }).await;
    let end = b.ended().await;
    assert!(matches!(&end, Err(RunError::Removed(name)) if name.as_str() == "b"), "{end:?}");
    edge.connected().await;
    let state = edge.state(|state| !state.denied.is_empty()).await;
    assert!(state.denied.iter().any(|denied| denied.serial == own.serial), "edges refuse it too");
    let sessions = Call::Sessions { namespace: None, edge: None, brief: false };
    let answer = admin_call(&before, sessions, false, CALL_TIMEOUT).await;
    assert!(answer.is_err(), "{answer:?}");
    assert!(matches!(a.edge("x").await.state, EdgeLiveness::Online { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_left_by_an_interrupted_renewal_is_known_once_its_controller_starts() {
    let [a, mut b] = TestController::pair(&[]).await;
    let left = b.new_issuing_ca(&b.mesh.root());
    b.stop().await;
    b.start_again().await;
    let row = async || issuers(&a).await.into_iter().find(|row| row.fingerprint == left);
    until(async || row().await.is_some()).await;
    let row = row().await.unwrap();
    assert!(row.controller.as_str() == "b" && !row.signs, "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_removed_with_its_cas_leaves_none_whichever_comes_first() {
    let del = || Call::ControllerDel { name: label("b"), revoke_issuer: true };
    // First b registers its CA.
    let [a, mut b] = TestController::pair(&[]).await;
    let left = b.new_issuing_ca(&b.mesh.root());
    a.hold_watches();
    b.stop().await;
    b.start_again().await;
    until(async || issuers(&b).await.iter().any(|row| row.fingerprint == left)).await;
    a.too_late(a.change(del())).await;
    let rows = issuers(&a).await;
    assert!(rows.iter().any(|row| row.fingerprint == left && row.revoked), "{rows:?}");
    // First the removal.
    let [a, b] = TestController::pair(&[]).await;
    let left = b.new_issuing_ca(&b.mesh.root());
    b.hold_watches();
    a.change(del()).await;
    let socket = b.data.socket();
    let used = b.too_late(local::request_issuer(&socket, left, false)).await;
    assert!(!matches!(used, Ok(Some(_))), "{used:?}");
    let rows = issuers(&a).await;
    assert!(rows.iter().all(|row| row.fingerprint != left || row.revoked), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_is_removed_once_it_has_stopped_or_with_its_ca() {
    let [a, mut b] = TestController::pair(&["x", "y"]).await;
    let (x, y) = (a.join("x").await, b.join("y").await);
    let mut kept = TestEdge::connect(a.only(&x), None);
    let state = kept.any_state().await;
    assert_eq!(state.controllers.len(), 2);
    let rows = a.controllers().await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.running.is_some()), "{rows:?}");
    assert_eq!(rows[1].issuer, b.data.issuer().unwrap().ca().spki_sha256());

    let del = |revoke_issuer| Call::ControllerDel { name: label("b"), revoke_issuer };
    let error = a.refusal(del(false)).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("runs"), "{error}");
    let own = Call::ControllerDel { name: label("a"), revoke_issuer: false };
    assert_eq!(a.refusal(own).await.code, ErrorCode::Conflict);
    let missing = Call::ControllerDel { name: label("c"), revoke_issuer: false };
    assert_eq!(a.refusal(missing).await.code, ErrorCode::NotFound);

    // It signs with another CA now, and still has the key of the one that has signed an edge's certificate.
    let later = b.new_issuing_ca(&b.mesh.root());
    b.sign_with(later, false).await.unwrap();
    until(async || issuers(&a).await.iter().any(|row| row.fingerprint == later && row.signs)).await;
    // A third CA, which it had before and may sign with again.
    let earlier = Fingerprint::from_bytes([9; 32]);
    let issuer = IssuerRecord {
        controller: label("b"),
        root: Fingerprint::from_bytes([8; 32]),
        not_before: 0,
        not_after: u64::MAX / 2,
        added: u64::MAX / 2,
        signs: false,
    };
    let key = Key::Issuer(earlier).to_string();
    write(&a, Op::Put { key, value: record::encode(&issuer) }).await;

    // As when somebody else controls it: with its CAs it is removed although it runs, and so are the edges that it has
    // enrolled.
    let mut cut = TestEdge::online(a.only(&y)).await;
    let changed = a.change(del(true)).await;
    let state = kept.state(|state| state.version.mesh >= changed.version.mesh).await;
    assert_eq!(state.controllers.len(), 1, "one update for both");
    assert_eq!(state.trust.revoked_issuers.len(), 3);
    assert!(state.trust.revoked_issuers.contains(&earlier));
    let rows = issuers(&a).await;
    let mut of_b = rows.iter().filter(|row| row.controller == label("b"));
    assert!(of_b.all(|row| row.revoked && !row.signs), "nothing waits for it");
    assert!(!state.denied.is_empty());
    cut.goodbye(GoodbyeReason::Revoked).await;
    assert!(matches!(b.ended().await, Err(RunError::Removed(_))));
    // It does not come up again.
    b.start_again().await;
    assert!(matches!(b.ended().await, Err(RunError::Removed(_))));
    assert_eq!(
        a.refusal(Call::ControllerShow { name: label("b") }).await.code,
        ErrorCode::NotFound
    );
}

/// Writes to the store, past the controllers.
async fn write(controller: &TestController, op: Op) {
    let store = controller.shared_store.as_ref().unwrap();
    store.commit(uncompared(vec![op])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_without_its_registration_stops() {
    let [a, mut b] = TestController::pair(&[]).await;
    write(&a, Op::Delete { key: Key::Controller(label("b")).to_string() }).await;
    assert!(matches!(b.ended().await, Err(RunError::Removed(_))));
    b.start_again().await;
    assert!(matches!(b.ended().await, Err(RunError::Removed(_))));
    let show = Call::ControllerShow { name: label("b") };
    assert_eq!(a.refusal(show).await.code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controllers_certificate_that_the_store_lost_is_denied_when_it_is_removed() {
    let [a, mut b] = TestController::pair(&[]).await;
    b.stop().await;
    let serial = b.data.credentials().unwrap().identity().serial;
    write(&a, Op::Delete { key: Key::Cert(serial).to_string() }).await;
    b.start_again().await;
    until(async || a.certs(None).await.iter().any(|row| row.serial == serial)).await;
    b.stop().await;
    until(async || a.controller("b").await.running.is_none()).await;
    a.change(Call::ControllerDel { name: label("b"), revoke_issuer: false }).await;
    let rows = a.certs(None).await;
    let own = rows.iter().find(|row| row.serial == serial).unwrap();
    assert!(matches!(own.state, CertState::Revoked { .. }), "{own:?}");
}

/// A client of one controller with the certificate of another.
fn client_of(of: &TestController, at: &TestController) -> Client {
    let credentials = of.data.credentials().unwrap().credentials();
    let roots = vec![of.data.issuer().unwrap().root().der.clone()];
    let bundle = TrustBundle { roots, ..TrustBundle::default() };
    client(&credentials, bundle, vec![Endpoint::from(at.control)])
}

fn is_of_b(row: &CertRow) -> bool {
    matches!(&row.id.role, Role::Controller { name } if name.as_str() == "b")
}

/// The issuing CAs that a controller knows.
async fn issuers(controller: &TestController) -> Vec<IssuerRow> {
    controller.ca_status().await.issuers
}
