//! Roots and issuing CAs come and go while the controller runs.

use std::sync::atomic::Ordering;

use cframe_controller::serve::local;
use cframe_pki::{
    Fingerprint,
    issue::{RootCa, VerifiedCsr},
    key::PrivateKey,
    unix_now,
};
use cframe_protocol::{
    session::{Command, EnrollFailure},
    v1::{AuditQuery, CaStatus, Call, ErrorCode, GoodbyeReason, HolderRow, MeshStatus, Reply},
};

use crate::world::{Edge, Identity, Seen, World, join, label};

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

impl World {
    async fn ca(&self) -> CaStatus {
        let mut whole: Option<Reply> = None;
        for piece in self.call(Call::CaStatus).await.unwrap() {
            match &mut whole {
                Some(whole) => assert_eq!(whole.merge(piece), None),
                None => whole = Some(piece),
            }
        }
        match whole {
            Some(Reply::Ca(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    async fn holders(&self, ca: Fingerprint) -> Vec<HolderRow> {
        let replies = self.call(Call::CaHolders { fingerprint: ca }).await.unwrap();
        let rows = replies.into_iter().map(|reply| match reply {
            Reply::Holders(rows) => rows,
            other => panic!("{other:?}"),
        });
        rows.flatten().collect()
    }

    async fn status(&self) -> MeshStatus {
        let mut whole: Option<Reply> = None;
        for piece in self.call(Call::Status).await.unwrap() {
            match &mut whole {
                Some(whole) => assert_eq!(whole.merge(piece), None),
                None => whole = Some(piece),
            }
        }
        match whole {
            Some(Reply::Status(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Makes an issuing CA under a root, on disk alone.
    fn issuing_ca(&self, root: &RootCa) -> Fingerprint {
        let authorities = self.data.authorities();
        let csr = VerifiedCsr::from_der(&authorities.request().unwrap()).unwrap();
        let certificate = root.sign_issuing(&csr, unix_now()).unwrap();
        authorities.complete(&certificate, root.certificate()).unwrap()
    }

    async fn sign_with(&self, issuer: Fingerprint, force: bool) -> Result<Vec<String>, String> {
        let answer = local::request_issuer(&self.data.socket(), issuer, force).await;
        answer.map(Option::unwrap).map_err(|error| error.to_string())
    }

    /// Waits until the audit log has these results of changes to a CA; a refusal's comes a moment later.
    async fn uses_recorded(&self, issuer: Fingerprint, results: &[&str]) {
        let subject = issuer.to_string();
        let found = async || {
            let rows = match self.reply(Call::Audit(AuditQuery::default())).await {
                Reply::Audit(rows) => rows,
                other => panic!("{other:?}"),
            };
            let records = rows.iter().map(|row| serde_json::from_str(&row.record).unwrap());
            let uses = records.filter(|record: &serde_json::Value| {
                let who = record["who"].as_str().unwrap();
                record["call"] == "ca-use"
                    && record["subject"] == subject
                    && who.starts_with("local/")
            });
            let mut found: Vec<String> =
                uses.map(|record| record["result"].as_str().unwrap().to_owned()).collect();
            found.sort();
            found == results
        };
        crate::pair::until(found).await;
    }

    /// What the controller's registration says, and so what is revoked with it.
    async fn registered_issuer(&self) -> Fingerprint {
        match self.reply(Call::ControllerShow { name: label("controller") }).await {
            Reply::Controllers(rows) => rows[0].issuer,
            other => panic!("{other:?}"),
        }
    }

    /// Both wait until the store knows who signs.
    async fn announced(&self, issuer: Fingerprint) {
        let found = async {
            while !self.ca().await.issuers.iter().any(|row| row.fingerprint == issuer && row.signs)
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::world::PATIENCE, found).await.expect("in time");
    }

    /// A certificate for the admin, as `cfctl` renews it.
    async fn renew_admin(&mut self) {
        let key = PrivateKey::generate().unwrap();
        let csr = key.csr().unwrap().to_vec();
        let call = Call::AdminAdd { name: label("root"), csr, read_only: false };
        let Reply::AdminEnrolled(enrolled) = self.reply(call).await else { panic!() };
        let chain = enrolled.chain.into_iter().map(Into::into).collect();
        let credentials = cframe_pki::tls::Credentials { chain, key };
        self.admin = crate::world::client(&credentials, enrolled.trust, enrolled.controllers);
    }
}

/// Has an edge renew over its session.
async fn renew(edge: &mut Edge) -> Identity {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr().unwrap().to_vec();
    edge.commands.send(Command::Renew { csr }).await.unwrap();
    match edge.event(|seen| matches!(seen, Seen::Renewed(_))).await {
        Seen::Renewed(enrolled) => Identity { enrolled: enrolled.unwrap(), key },
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_good_root_of_this_mesh_is_added_and_no_more_than_four() {
    let world = World::start().await;
    let other = world.refusal(add(&new_root("other.test"))).await;
    assert!(other.code == ErrorCode::Invalid && other.message.contains("other.test"), "{other}");
    let issuing = world.data.issuer().unwrap().ca().certificate().to_vec();
    let error = world.refusal(Call::RootAdd { certificate: issuing }).await;
    assert_eq!(error.code, ErrorCode::Invalid);
    let error = world.refusal(Call::RootAdd { certificate: vec![1, 2] }).await;
    assert_eq!(error.code, ErrorCode::Invalid);
    let expired = RootCa::generate(&"m.test".parse().unwrap(), unix_now() - 4000 * DAY).unwrap();
    let error = world.refusal(add(&expired)).await;
    assert!(error.message.contains("valid"), "{error}");

    let root = new_root("m.test");
    let before = world.ca().await;
    assert_eq!((before.roots.len(), before.roots[0].revision), (1, 0));
    assert_eq!(world.change(add(&root)).await.version.mesh, 2);
    let error = world.refusal(add(&root)).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("already"), "{error}");
    for _ in 0..2 {
        world.change(add(&new_root("m.test"))).await;
    }
    let error = world.refusal(add(&new_root("m.test"))).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("4 roots"), "{error}");
    let status = world.ca().await;
    assert_eq!(status.roots[1].fingerprint, root.spki_sha256());
    assert_eq!(status.roots[1].revision, 2);
    // Unused ones go as they came, and the last never.
    for row in &status.roots[1..] {
        world.change(drop_root(row.fingerprint, false)).await;
    }
    let last = status.roots[0].fingerprint;
    assert_eq!(world.refusal(drop_root(last, true)).await.code, ErrorCode::Conflict);
    assert_eq!(world.refusal(drop_root(root.spki_sha256(), true)).await.code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_rotated_step_by_step_and_back() {
    let mut world = World::with_edges(&["a", "b"]).await;
    let (a, b) = (world.join("prod", "a").await, world.join("prod", "b").await);
    let mut edges = [Edge::connect(a.client(), None), Edge::connect(b.client(), None)];
    for edge in &mut edges {
        edge.until(|_| true).await;
    }
    let first = world.data.issuer().unwrap().ca().spki_sha256();
    world.announced(first).await;
    let old = world.ca().await.roots[0].fingerprint;
    let counts = world.ca().await.roots[0].certs;
    assert_eq!((counts.edges, counts.controllers, counts.admins), (2, 1, 1));

    let root = new_root("m.test");
    let new = root.spki_sha256();
    let second = world.issuing_ca(&root);
    let error = world.sign_with(second, true).await.unwrap_err();
    assert!(error.contains("rotate add"), "{error}");
    let rows = world.ca().await.issuers;
    assert!(rows.iter().any(|row| row.fingerprint == second && !row.signs), "it has the key");
    world.change(add(&root)).await;
    for edge in &mut edges {
        edge.until(|state| state.trust.roots.len() == 2).await;
    }
    let acknowledged = async {
        while world.ca().await.roots[1].have < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, acknowledged).await.expect("in time");
    assert!(world.ca().await.next.contains("ca renew"), "{}", world.ca().await.next);
    // The new roots come with a certificate, which is by the old CA.
    world.renew_admin().await;

    assert_eq!(world.sign_with(second, false).await.unwrap(), [""; 0]);
    assert_eq!(world.registered_issuer().await, second);
    world.uses_recorded(second, &["conflict", "ok"]).await;
    assert!(world.ca().await.roots[1].signs);
    assert!(world.ca().await.next.contains("rotate renew"), "{}", world.ca().await.next);
    // A token of now pins the root that signs now, and the enrolment port shows that one.
    world.add_edge("prod", "c", "10.3.0.0/16").await;
    let c = world.join("prod", "c").await;
    assert_eq!(c.credentials().identity().unwrap().issuer, Some(second));
    // Who would be cut off is named, and it is not done.
    let own = world.refusal(drop_root(old, true)).await;
    assert!(own.message.contains("you are using"), "{own}");
    world.renew_admin().await;
    let error = world.refusal(drop_root(old, false)).await;
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("prod/a") && error.message.contains("prod/b"), "{error}");
    assert_eq!(world.holders(old).await.len(), 2);

    let renewed = [renew(&mut edges[0]).await, renew(&mut edges[1]).await];
    assert!(world.holders(first).await.is_empty());
    assert_eq!(world.holders(new).await.len(), 5, "three edges, the controller, the admin");
    let next = world.ca().await.next;
    assert!(next.contains(&old.to_string()), "{next}");
    world.change(drop_root(old, false)).await;
    for (edge, identity) in edges.iter_mut().zip(&renewed) {
        // The session was begun by a chain to the old root: it ends, and the edge may come back.
        edge.event(|seen| matches!(seen, Seen::Goodbye(GoodbyeReason::Shutdown))).await;
        *edge = Edge::connect(identity.client(), None);
        edge.until(|state| state.trust.roots.len() == 1).await;
    }
    let mut late = Edge::connect(a.client(), None);
    late.event(|seen| matches!(seen, Seen::Ended(_))).await;

    // It holds after a restart, and goes back the same way.
    world.restart().await;
    let original = cframe_pki::issue::read_certificate(&world.data.ca().join("root.pem")).unwrap();
    let back = Call::RootAdd { certificate: original.to_vec() };
    world.change(back).await;
    for (edge, identity) in edges.iter_mut().zip(&renewed) {
        *edge = Edge::connect(identity.client(), None);
        edge.until(|state| state.trust.roots.len() == 2).await;
    }
    let error = world.sign_with(first, false).await.unwrap_err();
    assert!(error.contains("prod/c (offline)"), "{error}");
    let warnings = world.sign_with(first, true).await.unwrap();
    assert!(warnings[0].contains("prod/c (offline)"), "{warnings:?}");
    assert_eq!(renew(&mut edges[0]).await.credentials().identity().unwrap().issuer, Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_of_before_a_rotation_fails_with_its_remedy() {
    let mut world = World::with_edges(&["a"]).await;
    let before = world.token("prod", "a", false).await;
    let root = new_root("m.test");
    world.change(add(&root)).await;
    world.renew_admin().await;
    world.sign_with(world.issuing_ca(&root), false).await.unwrap();
    let Err(error) = join(&before).await else { panic!("it was taken") };
    assert!(matches!(error, EnrollFailure::Unreachable(_)), "{error}");
    assert!(error.to_string().contains("make a new token"), "{error}");
    world.join("prod", "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_issuing_ca_takes_its_edges_along_unless_they_have_renewed() {
    let mut world = World::with_edges(&["a", "b"]).await;
    let (a, b) = (world.join("prod", "a").await, world.join("prod", "b").await);
    let mut edges = [Edge::connect(a.client(), None), Edge::connect(b.client(), None)];
    for edge in &mut edges {
        edge.until(|_| true).await;
    }
    let first = world.data.issuer().unwrap().ca().spki_sha256();
    let root = RootCa::load(&world.data.ca()).unwrap();
    world.sign_with(world.issuing_ca(&root), false).await.unwrap();
    let error = world.refusal(Call::IssuerRevoke { fingerprint: first }).await;
    assert!(error.message.contains("you are using"), "{error}");
    world.renew_admin().await;
    // a renews in time, b does not.
    let renewed = renew(&mut edges[0]).await;
    let changed = world.change(Call::IssuerRevoke { fingerprint: first }).await;
    assert!(
        changed.warnings[0].starts_with("1 edge ") && changed.warnings[0].ends_with("prod/b"),
        "{changed:?}"
    );
    edges[1].event(|seen| matches!(seen, Seen::Goodbye(GoodbyeReason::Revoked))).await;
    edges[1].event(|seen| matches!(seen, Seen::Ended(why) if why.contains("refuses"))).await;
    edges[0] = Edge::connect(renewed.client(), None);
    edges[0].until(|state| state.trust.revoked_issuers.contains(&first)).await;
    let again = join(&world.token("prod", "b", true).await).await.unwrap();
    edges[1] = Edge::connect(again.client(), None);
    edges[1].until(|_| true).await;
    assert!(world.ca().await.issuers.iter().any(|row| row.fingerprint == first && row.revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_told_two_weeks_before() {
    let world = World::with_edges(&["a"]).await;
    let first = world.data.issuer().unwrap().ca().spki_sha256();
    world.announced(first).await;
    world.join("prod", "a").await;
    let problems = async |world: &World| world.status().await.problems.join("\n");
    world.ahead.store(15 * DAY, Ordering::SeqCst);
    assert!(!problems(&world).await.contains("expires"), "{}", problems(&world).await);
    world.ahead.store(17 * DAY + 3600, Ordering::SeqCst);
    let told = problems(&world).await;
    assert!(told.contains("edge prod/a expires in 12 days"), "{told}");
    assert!(told.contains("admin root expires in 12 days"), "{told}");
}
