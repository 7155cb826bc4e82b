//! Roots and issuing CAs are added, changed and removed while the controller runs.

use std::sync::atomic::Ordering;

use cframe_pki::{
    Fingerprint,
    issue::{RootCa, read_certificate},
    unix_now,
};
use cframe_protocol::{
    session::EnrollFailure,
    v1::{AuditQuery, Call, ErrorCode, GoodbyeReason},
};

use crate::support::{
    admin::AdminCalls,
    controller::TestController,
    credentials::EdgeIdentity,
    edge::{SessionEvent, TestEdge, join},
    wait::until,
};

const DAY: u64 = 86_400;

fn new_root(mesh: &str) -> RootCa {
    RootCa::generate(&mesh.parse().unwrap(), unix_now()).unwrap()
}

fn add(root: &RootCa) -> Call {
    Call::RootAdd { certificate: root.certificate().to_vec() }
}

fn drop_root(fingerprint: Fingerprint, force: bool) -> Call {
    Call::RootDrop { fingerprint, force }
}

/// Waits until the audit log has these results of uses of a CA. That of a refusal is written a moment later.
async fn uses_recorded(controller: &TestController, issuer: Fingerprint, results: &[&str]) {
    let subject = issuer.to_string();
    until(async || {
        let rows = controller.audit(AuditQuery::default()).await;
        let records = rows.iter().map(|row| serde_json::from_str(&row.record).unwrap());
        let uses = records.filter(|record: &serde_json::Value| {
            let who = record["who"].as_str().unwrap();
            record["call"] == "ca-use" && record["subject"] == subject && who.starts_with("local/")
        });
        let mut found: Vec<String> =
            uses.map(|record| record["result"].as_str().unwrap().to_owned()).collect();
        found.sort();
        found == results
    })
    .await;
}

/// Waits until the store says that this CA signs.
async fn registered(controller: &TestController, issuer: Fingerprint) {
    until(async || {
        let rows = controller.ca_status().await.issuers;
        rows.iter().any(|row| row.fingerprint == issuer && row.signs)
    })
    .await;
}

/// Renews the admin's certificate, as `cfctl` does.
async fn renew_admin(controller: &mut TestController) {
    controller.admin = controller.enrol_admin("root", false).await.unwrap().client();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_root_of_this_mesh_is_added_and_no_more_than_four() {
    let controller = TestController::start().await;
    let other = controller.refusal(add(&new_root("other.test"))).await;
    assert!(other.code == ErrorCode::Invalid && other.message.contains("other.test"), "{other}");
    let issuing = controller.data.issuer().unwrap().ca().certificate().to_vec();
    let error = controller.refusal(Call::RootAdd { certificate: issuing }).await;
    assert_eq!(error.code, ErrorCode::Invalid);
    let error = controller.refusal(Call::RootAdd { certificate: vec![1, 2] }).await;
    assert_eq!(error.code, ErrorCode::Invalid);
    let expired = RootCa::generate(&"m.test".parse().unwrap(), unix_now() - 4000 * DAY).unwrap();
    let error = controller.refusal(add(&expired)).await;
    assert!(error.message.contains("valid"), "{error}");

    let root = new_root("m.test");
    let before = controller.ca_status().await;
    assert_eq!((before.roots.len(), before.roots[0].revision), (1, 0));
    assert_eq!(controller.change(add(&root)).await.version.mesh, 2);
    let error = controller.refusal(add(&root)).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("already"), "{error}");
    for _ in 0..2 {
        controller.change(add(&new_root("m.test"))).await;
    }
    let error = controller.refusal(add(&new_root("m.test"))).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("4 roots"), "{error}");
    let status = controller.ca_status().await;
    assert_eq!(status.roots[1].fingerprint, root.spki_sha256());
    assert_eq!(status.roots[1].revision, 2);
    // Unused roots can be removed, but never the last root.
    for row in &status.roots[1..] {
        controller.change(drop_root(row.fingerprint, false)).await;
    }
    let last = status.roots[0].fingerprint;
    assert_eq!(controller.refusal(drop_root(last, true)).await.code, ErrorCode::Conflict);
    assert_eq!(
        controller.refusal(drop_root(root.spki_sha256(), true)).await.code,
        ErrorCode::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_rotated_step_by_step_and_back() {
    let mut controller = TestController::with_edges(&["a", "b"]).await;
    let (a, b) = (controller.join("a").await, controller.join("b").await);
    let mut edges = [TestEdge::online(a.client()).await, TestEdge::online(b.client()).await];
    let first = controller.data.issuer().unwrap().ca().spki_sha256();
    registered(&controller, first).await;
    let old = controller.ca_status().await.roots[0].fingerprint;
    let counts = controller.ca_status().await.roots[0].certs;
    assert_eq!((counts.edges, counts.controllers, counts.admins), (2, 1, 1));

    let root = new_root("m.test");
    let new = root.spki_sha256();
    let second = add_root(&mut controller, &mut edges, &root).await;
    assert_eq!(controller.sign_with(second, false).await.unwrap(), [""; 0]);
    assert_eq!(controller.controller("controller").await.issuer, second);
    uses_recorded(&controller, second, &["conflict", "ok"]).await;
    assert!(controller.ca_status().await.roots[1].signs);
    assert!(
        controller.ca_status().await.next.contains("rotate renew"),
        "{}",
        controller.ca_status().await.next
    );
    // A token made now pins the root that signs now, and the enrolment port presents that one.
    controller.add_edge("prod", "c", "10.3.0.0/16").await;
    let c = controller.join("c").await;
    assert_eq!(c.credentials().identity().unwrap().issuer, Some(second));
    // The drop is refused, and the error names who would be cut off.
    let own = controller.refusal(drop_root(old, true)).await;
    assert!(own.message.contains("you are using"), "{own}");
    renew_admin(&mut controller).await;
    let error = controller.refusal(drop_root(old, false)).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("prod/a") && error.message.contains("prod/b"), "{error}");
    assert_eq!(controller.holders(old).await.len(), 2);

    let renewed = [edges[0].renew().await, edges[1].renew().await];
    assert!(controller.holders(first).await.is_empty());
    assert_eq!(controller.holders(new).await.len(), 5, "three edges, the controller, the admin");
    let next = controller.ca_status().await.next;
    assert!(next.contains(&old.to_string()), "{next}");
    controller.change(drop_root(old, false)).await;
    for (edge, identity) in edges.iter_mut().zip(&renewed) {
        // The session was started with a chain to the old root: it ends, and the edge may connect again.
        edge.goodbye(GoodbyeReason::Shutdown).await;
        *edge = TestEdge::connect(identity.client(), None);
        edge.state(|state| state.trust.roots.len() == 1).await;
    }
    let mut late = TestEdge::connect(a.client(), None);
    late.event(|event| matches!(event, SessionEvent::Ended(_))).await;

    // The change survives a restart, and can be undone in the same way.
    controller.restart().await;
    rotate_back(&controller, first, &mut edges, &renewed).await;
}

/// Makes an issuing CA under a new root, and distributes the root. Returns the issuing CA.
async fn add_root(
    controller: &mut TestController,
    edges: &mut [TestEdge; 2],
    root: &RootCa,
) -> Fingerprint {
    let second = controller.new_issuing_ca(root);
    let error = controller.sign_with(second, true).await.unwrap_err();
    assert!(error.contains("rotate add"), "{error}");
    let rows = controller.ca_status().await.issuers;
    assert!(rows.iter().any(|row| row.fingerprint == second && !row.signs), "it has the key");
    controller.change(add(root)).await;
    for edge in edges {
        edge.state(|state| state.trust.roots.len() == 2).await;
    }
    until(async || controller.ca_status().await.roots[1].have >= 2).await;
    assert!(
        controller.ca_status().await.next.contains("ca renew"),
        "{}",
        controller.ca_status().await.next
    );
    // With a new certificate, which the old CA signs, the admin gets the new roots.
    renew_admin(controller).await;
    second
}

/// Adds the first root again, and signs with the first issuing CA.
async fn rotate_back(
    controller: &TestController,
    first: Fingerprint,
    edges: &mut [TestEdge; 2],
    identities: &[EdgeIdentity; 2],
) {
    let original = read_certificate(&controller.data.ca().join("root.pem")).unwrap();
    let back = Call::RootAdd { certificate: original.to_vec() };
    controller.change(back).await;
    for (edge, identity) in edges.iter_mut().zip(identities) {
        *edge = TestEdge::connect(identity.client(), None);
        edge.state(|state| state.trust.roots.len() == 2).await;
    }
    let error = controller.sign_with(first, false).await.unwrap_err();
    assert!(error.contains("prod/c (offline)"), "{error}");
    let warnings = controller.sign_with(first, true).await.unwrap();
    assert!(warnings[0].contains("prod/c (offline)"), "{warnings:?}");
    assert_eq!(edges[0].renew().await.credentials().identity().unwrap().issuer, Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_from_before_a_rotation_fails_and_says_what_to_do() {
    let mut controller = TestController::with_edges(&["a"]).await;
    let before = controller.token("a").await;
    let root = new_root("m.test");
    controller.change(add(&root)).await;
    renew_admin(&mut controller).await;
    controller.sign_with(controller.new_issuing_ca(&root), false).await.unwrap();
    let Err(error) = join(&before).await else { panic!("it was accepted") };
    assert!(matches!(error, EnrollFailure::Unreachable(_)), "{error}");
    assert!(error.to_string().contains("make a new token"), "{error}");
    controller.join("a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_issuing_ca_cuts_off_its_edges_unless_they_have_renewed() {
    let mut controller = TestController::with_edges(&["a", "b"]).await;
    let (a, b) = (controller.join("a").await, controller.join("b").await);
    let mut edges = [TestEdge::online(a.client()).await, TestEdge::online(b.client()).await];
    let first = controller.data.issuer().unwrap().ca().spki_sha256();
    let root = RootCa::load(&controller.data.ca()).unwrap();
    controller.sign_with(controller.new_issuing_ca(&root), false).await.unwrap();
    let error = controller.refusal(Call::IssuerRevoke { fingerprint: first }).await;
    assert!(error.message.contains("you are using"), "{error}");
    renew_admin(&mut controller).await;
    // a renews in time, b does not.
    let renewed = edges[0].renew().await;
    let changed = controller.change(Call::IssuerRevoke { fingerprint: first }).await;
    assert!(
        changed.warnings[0].starts_with("1 edge ") && changed.warnings[0].ends_with("prod/b"),
        "{changed:?}"
    );
    edges[1].goodbye(GoodbyeReason::Revoked).await;
    edges[1].refused().await;
    edges[0] = TestEdge::connect(renewed.client(), None);
    edges[0].state(|state| state.trust.revoked_issuers.contains(&first)).await;
    let again = join(&controller.rejoin_token("b").await).await.unwrap();
    edges[1] = TestEdge::connect(again.client(), None);
    edges[1].any_state().await;
    assert!(
        controller
            .ca_status()
            .await
            .issuers
            .iter()
            .any(|row| row.fingerprint == first && row.revoked)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_reported_two_weeks_before() {
    let controller = TestController::with_edges(&["a"]).await;
    let first = controller.data.issuer().unwrap().ca().spki_sha256();
    registered(&controller, first).await;
    controller.join("a").await;
    let problems = async || controller.problems().await.join("\n");
    controller.seconds_ahead.store(15 * DAY, Ordering::SeqCst);
    assert!(!problems().await.contains("expires"), "{}", problems().await);
    controller.seconds_ahead.store(17 * DAY + 3600, Ordering::SeqCst);
    let problems = problems().await;
    assert!(problems.contains("edge prod/a expires in 12 days"), "{problems}");
    assert!(problems.contains("admin root expires in 12 days"), "{problems}");
}
