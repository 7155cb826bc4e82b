//! Two controllers on one store, and what they owe to each other's edges and admins.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_controller::{
    RunError,
    model::record::{self, IssuerRecord, Key},
    serve::local,
};
use cframe_pki::{
    Fingerprint,
    identity::Role,
    issue::{RootCa, VerifiedCsr},
    unix_now,
};
use cframe_protocol::{
    session::{AdminConnection, CallFailure, Client, Command, EnrollFailure, admin_call},
    v1::{
        AuditQuery, Call, CertRow, CertState, Desired, EdgeLiveness, EdgeRow, Endpoint, ErrorCode,
        GoodbyeReason, IssuerRow, Reply, Version,
    },
};
use cframe_store::{Op, Txn};
use tokio::task::JoinSet;

use crate::{
    pair::{Member, Pair, until},
    world::{Edge, Identity, Seen, client, join, label, route_add},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_through_one_is_at_once_on_the_edges_of_the_other() {
    let pair = Pair::with_edges(&["x", "y"]).await;
    let identity = pair.join("x").await;
    let mut edge = Edge::connect(pair.b.only(&identity), None);
    edge.until(|_| true).await;
    let begun = Instant::now();
    let changed = pair.a.change(route_add("r", "10.244.0.0/16", "y")).await;
    edge.until(|state| state.version == changed.version).await;
    let took = begun.elapsed();
    println!("figure: edit through one controller → on an edge of the other: {took:?}");
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_covers_the_edges_of_both() {
    let pair = Pair::with_edges(&["x", "y"]).await;
    let (x, y) = (pair.join("x").await, pair.join("y").await);
    let mut here = Edge::connect(pair.a.only(&x), None);
    let mut there = Edge::holding_back(pair.b.only(&y));
    here.until(|_| true).await;
    there.until(|_| true).await;
    there.acknowledge().await;
    let changed = pair.a.change(route_add("r", "10.244.0.0/16", "x")).await;
    there.until(|state| state.version == changed.version).await;
    let error = pair.a.refusal(wait(changed.version, 1)).await;
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.message.contains("1 of 2") && error.message.contains("y"), "{error}");
    let waiting = pair.a.call(wait(changed.version, 10));
    let (replies, ()) = tokio::join!(waiting, there.acknowledge());
    let replies = replies.unwrap();
    let last = replies.iter().rev().find_map(|reply| match reply {
        Reply::Progress(progress) => Some(progress.clone()),
        _ => None,
    });
    let last = last.unwrap();
    assert_eq!((last.acked, last.total), (2, 2), "{replies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_does_not_take_an_edge_that_moves_for_one_that_has_gone() {
    let pair = Pair::with_edges(&["x"]).await;
    let x = pair.join("x").await;
    let mut there = Edge::holding_back(pair.b.only(&x));
    there.until(|_| true).await;
    there.acknowledge().await;
    let changed = pair.a.change(route_add("r", "10.244.0.0/16", "x")).await;
    let state = there.until(|state| state.version == changed.version).await;
    let admin = AdminConnection::connect(&pair.a.admin).await.unwrap();
    let mut replies = admin.call(wait(changed.version, 10), false).await.unwrap();
    let mut waits = async |acked: u32, total: u32| {
        loop {
            match replies.next().await.unwrap() {
                Some(Reply::Progress(at)) if (at.acked, at.total) == (acked, total) => return,
                Some(Reply::Progress(at)) => assert!(at.total == 1 || at.acked < 1, "{at:?}"),
                Some(Reply::Unheard(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    waits(0, 1).await;
    // Between the two it is nowhere, and not forgotten.
    drop(there);
    until(async || !matches!(state_of(&pair.a, "x").await, EdgeLiveness::Online { .. })).await;
    let mut here = Edge::connect(pair.a.only(&x), Some(previous(&state)));
    here.until(|state| state.version == changed.version).await;
    waits(1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_lasts_until_the_edges_of_a_killed_controller_are_with_the_other() {
    let mut pair = Pair::with_edges(&["x"]).await;
    let x = pair.join("x").await;
    let mut edge = Edge::holding_back(pair.b.only(&x));
    let state = edge.until(|_| true).await;
    edge.acknowledge().await;
    edge.commands.send(Command::Client(x.client())).await.unwrap();
    until(async || row(&pair.a, "x").await.applied == Some(state.version)).await;
    let version = pair.a.change(route_add("r", "10.244.0.0/16", "x")).await.version;
    edge.until(|state| state.version == version).await;
    let admin = AdminConnection::connect(&pair.a.admin).await.unwrap();
    let mut replies = admin.call(wait(version, 15), false).await.unwrap();
    // It has heard of the edge.
    while !matches!(replies.next().await.unwrap(), Some(Reply::Progress(at)) if at.total == 1) {}
    pair.b.kill();
    let waited = async { while replies.next().await.unwrap().is_some() {} };
    let moved = edge.event(|seen| matches!(seen, Seen::Connected));
    let (end, moved) = tokio::join!(async { (waited.await, Instant::now()).1 }, async {
        (moved.await, Instant::now()).1
    });
    assert!(end > moved, "it ended {:?} too early", moved - end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_the_store_holds_for_dead_says_that_it_is_not() {
    let pair = Pair::with_edges(&[]).await;
    let running = async || match pair.a.reply(Call::ControllerList).await {
        Reply::Controllers(rows) => rows.iter().filter(|row| row.running.is_some()).count(),
        other => panic!("{other:?}"),
    };
    assert_eq!(running().await, 2);
    pair.b.lose_lease();
    until(async || running().await == 1).await;
    until(async || running().await == 2).await;
}

/// The state before: what an edge has that has not applied the newest.
fn previous(state: &Desired) -> Arc<Desired> {
    let version = Version { namespace: state.version.namespace - 1, ..state.version };
    Arc::new(Desired { version, ..state.clone() })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_of_a_killed_controller_are_with_the_other_within_5_s() {
    let mut pair = Pair::with_edges(&["x"]).await;
    let x = pair.join("x").await;
    let mut edge = settled(&pair.b, &x).await;
    let begun = Instant::now();
    pair.b.kill();
    edge.event(|seen| matches!(seen, Seen::Connected)).await;
    let took = begun.elapsed();
    println!("figure: controller killed → its edge is with the other: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    until(async || matches!(state_of(&pair.a, "x").await, EdgeLiveness::Online { .. })).await;
    until(async || pair.a.status().await.problems == ["controller b does not run"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_of_a_controller_that_stops_are_with_the_other_within_a_second() {
    let mut pair = Pair::with_edges(&["x"]).await;
    let x = pair.join("x").await;
    let mut edge = settled(&pair.b, &x).await;
    let begun = Instant::now();
    let stopping = pair.b.stop();
    let moved = async {
        edge.event(|seen| matches!(seen, Seen::Goodbye(GoodbyeReason::Shutdown))).await;
        edge.event(|seen| matches!(seen, Seen::Connected)).await;
        begun.elapsed()
    };
    let ((), took) = tokio::join!(stopping, moved);
    println!("figure: controller stopped → its edge is with the other: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    // And when it is back, both are asked again.
    pair.b.start().await;
    pair.both_run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_say_the_same_of_the_mesh() {
    let pair = Pair::with_edges(&["x", "y", "z"]).await;
    let (x, y) = (pair.join("x").await, pair.b.join("y").await);
    let mut here = Edge::connect(pair.a.only(&x), None);
    let mut there = Edge::connect(pair.b.only(&y), None);
    here.until(|_| true).await;
    there.until(|_| true).await;
    until(async || pair.a.status().await.namespaces[0].in_sync == 2).await;
    let (mut one, mut other) = (pair.a.status().await, pair.b.status().await);
    for status in [&mut one, &mut other] {
        status.controllers.iter_mut().for_each(|row| row.uptime_secs = 0);
    }
    assert_eq!(one, other);
    assert_eq!((one.namespaces[0].online, one.controllers.len()), (2, 2));
    assert_eq!(one.problems, ["edge prod/z has not joined yet"]);
    let list = async |member: &Member| match member.reply(Call::EdgeList { namespace: None }).await
    {
        Reply::Edges(rows) => rows,
        other => panic!("{other:?}"),
    };
    assert_eq!(list(&pair.a).await, list(&pair.b).await);
    assert!(matches!(state_of(&pair.b, "x").await, EdgeLiveness::Online { .. }));
    // The order to renew goes to where the edge is.
    let renew = |edge: &str| Call::CertRenew { namespace: label("prod"), edge: label(edge) };
    pair.a.change(renew("y")).await;
    there.event(|seen| matches!(seen, Seen::RenewNow)).await;
    assert_eq!(pair.a.refusal(renew("z")).await.code, ErrorCode::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_does_not_answer_is_named_and_nothing_is_made_up_about_its_edges() {
    let mut pair = Pair::with_edges(&["x"]).await;
    let x = pair.join("x").await;
    let mut edge = Edge::connect(pair.b.only(&x), None);
    edge.until(|_| true).await;
    let version = pair.a.change(route_add("r", "10.244.0.0/16", "x")).await.version;
    pair.b.kill();
    let begun = Instant::now();
    let status = pair.a.status().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(
        status.problems.iter().any(|text| text.starts_with("controller b does not answer")),
        "{:?}",
        status.problems
    );
    assert_eq!(state_of(&pair.a, "x").await, EdgeLiveness::Unknown);
    let error = pair.a.refusal(wait(version, 1)).await;
    assert!(error.message.contains("no answer of controller b"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_join_through_whichever_controller() {
    let pair = Pair::with_edges(&["x"]).await;
    let token = pair.a.token("x").await;
    let ports: Vec<u16> =
        token.addresses.iter().map(|address| address.parse::<Endpoint>().unwrap().port()).collect();
    assert_eq!(ports, [pair.a.enroll.port(), pair.b.enroll.port()]);
    let mut joins = JoinSet::new();
    for number in 0..32 {
        let mut token = token.clone();
        let at = [pair.a.enroll, pair.b.enroll][number % 2];
        token.addresses = vec![at.to_string()];
        joins.spawn(async move { join(&token).await.map(drop) });
    }
    let results = joins.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(&error, EnrollFailure::Refused(_)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_one_has_enrolled_renews_with_the_other() {
    let pair = Pair::with_edges(&["x", "y"]).await;
    let x = pair.a.join("x").await;
    let mut edge = Edge::connect(pair.b.only(&x), None);
    edge.until(|_| true).await;
    let key = cframe_pki::key::PrivateKey::generate().unwrap();
    let csr = key.csr().unwrap().to_vec();
    edge.commands.send(Command::Renew { csr }).await.unwrap();
    let Seen::Renewed(Ok(enrolled)) = edge.event(|seen| matches!(seen, Seen::Renewed(_))).await
    else {
        panic!("renewed")
    };
    let renewed = Identity { enrolled, key };
    assert_ne!(renewed.enrolled.chain[1], x.enrolled.chain[1], "by another issuing CA");
    let mut again = Edge::connect(pair.a.only(&renewed), None);
    again.until(|_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_through_one_ends_the_session_with_the_other_within_a_second() {
    let pair = Pair::with_edges(&["x"]).await;
    let x = pair.join("x").await;
    let mut edge = Edge::connect(pair.b.only(&x), None);
    edge.until(|_| true).await;
    let begun = Instant::now();
    let revoke = Call::CertRevoke { serial: x.serial(), reason: "stolen".to_owned() };
    pair.a.change(revoke).await;
    edge.event(|seen| matches!(seen, Seen::Goodbye(GoodbyeReason::Revoked))).await;
    let took = begun.elapsed();
    println!("figure: revocation through one controller → session with the other closed: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controllers_certificate_is_good_for_no_admin_call_and_no_session() {
    let pair = Pair::with_edges(&["x"]).await;
    let controller = as_controller(&pair.b, &pair.a);
    for call in [
        Call::NamespaceDel { name: label("prod"), cascade: true },
        Call::EdgeList { namespace: None },
        Call::CertList { namespace: None },
        Call::Backup,
        Call::Wait { namespace: label("prod"), version: Version::default(), timeout_secs: 1 },
        Call::ControllerDel { name: label("a"), revoke_issuer: false },
    ] {
        let answer = admin_call(&controller, call.clone(), false, Duration::from_secs(5));
        match answer.await {
            Err(CallFailure::Refused(error)) => {
                assert_eq!(error.code, ErrorCode::NotAllowed, "{call:?}");
            }
            other => panic!("{call:?}: {other:?}"),
        }
    }
    // Nor can an admin ask what only controllers do.
    let sessions = Call::Sessions { namespace: None, edge: None, brief: false };
    assert_eq!(pair.a.refusal(sessions).await.code, ErrorCode::NotAllowed);
    let mut edge = Edge::connect(controller, None);
    edge.event(|seen| matches!(seen, Seen::Ended(_))).await;
    assert!(edge.desired.borrow().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_controller_is_cut_off_by_the_other_and_by_edges() {
    let mut pair = Pair::with_edges(&["x"]).await;
    let x = pair.join("x").await;
    let mut edge = settled(&pair.b, &x).await;
    let before = as_controller(&pair.b, &pair.a);
    let own = certs(&pair.a).await.into_iter().find(|row| is_controller(row, "b")).unwrap();
    pair.a.change(Call::CertRevoke { serial: own.serial, reason: "stolen".to_owned() }).await;
    let end = pair.b.ended().await;
    assert!(matches!(&end, Err(RunError::Removed(name)) if name.as_str() == "b"), "{end:?}");
    edge.event(|seen| matches!(seen, Seen::Connected)).await;
    let state = edge.until(|state| !state.denied.is_empty()).await;
    assert!(state.denied.iter().any(|denied| denied.serial == own.serial), "edges refuse it too");
    let sessions = Call::Sessions { namespace: None, edge: None, brief: false };
    let limit = Duration::from_secs(5);
    let answer = admin_call(&before, sessions, false, limit).await;
    assert!(answer.is_err(), "{answer:?}");
    assert!(matches!(state_of(&pair.a, "x").await, EdgeLiveness::Online { .. }));
}

/// As the first half of `ca renew` does: on the disk of one, signed with the root that the other has.
fn another_ca(of: &Member, root: &Member) -> Fingerprint {
    let authorities = of.data.authorities();
    let root = RootCa::load(&root.data.ca()).unwrap();
    let csr = VerifiedCsr::from_der(&authorities.request().unwrap()).unwrap();
    let certificate = root.sign_issuing(&csr, unix_now()).unwrap();
    authorities.complete(&certificate, root.certificate()).unwrap()
}

/// The issuing CAs, as a controller knows them.
async fn issuers(member: &Member) -> Vec<IssuerRow> {
    let pieces = member.call(Call::CaStatus).await.unwrap().into_iter();
    let rows = pieces.flat_map(|piece| match piece {
        Reply::Ca(status) => status.issuers,
        other => panic!("{other:?}"),
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_a_renewal_cut_short_has_left_is_known_once_its_controller_starts() {
    let mut pair = Pair::with_edges(&[]).await;
    let left = another_ca(&pair.b, &pair.a);
    pair.b.stop().await;
    pair.b.start().await;
    let row = async || issuers(&pair.a).await.into_iter().find(|row| row.fingerprint == left);
    until(async || row().await.is_some()).await;
    let row = row().await.unwrap();
    assert!(row.controller.as_str() == "b" && !row.signs, "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_removed_with_its_cas_leaves_none_whichever_comes_first() {
    let del = || Call::ControllerDel { name: label("b"), revoke_issuer: true };
    // What it tells of its CA first.
    let mut pair = Pair::with_edges(&[]).await;
    let left = another_ca(&pair.b, &pair.a);
    pair.a.held.send_replace(true);
    pair.b.stop().await;
    pair.b.start().await;
    until(async || issuers(&pair.b).await.iter().any(|row| row.fingerprint == left)).await;
    pair.a.too_late(pair.a.change(del())).await;
    let rows = issuers(&pair.a).await;
    assert!(rows.iter().any(|row| row.fingerprint == left && row.revoked), "{rows:?}");
    // The removal first.
    let pair = Pair::with_edges(&[]).await;
    let left = another_ca(&pair.b, &pair.a);
    pair.b.held.send_replace(true);
    pair.a.change(del()).await;
    let socket = pair.b.data.socket();
    let used = pair.b.too_late(local::request_issuer(&socket, left, false)).await;
    assert!(!matches!(used, Ok(Some(_))), "{used:?}");
    let rows = issuers(&pair.a).await;
    assert!(rows.iter().all(|row| row.fingerprint != left || row.revoked), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_is_removed_once_it_has_stopped_or_with_its_ca() {
    let mut pair = Pair::with_edges(&["x", "y"]).await;
    let (x, y) = (pair.a.join("x").await, pair.b.join("y").await);
    let mut kept = Edge::connect(pair.a.only(&x), None);
    let state = kept.until(|_| true).await;
    assert_eq!(state.controllers.len(), 2);
    let rows = match pair.a.reply(Call::ControllerList).await {
        Reply::Controllers(rows) => rows,
        other => panic!("{other:?}"),
    };
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.running.is_some()), "{rows:?}");
    assert_eq!(rows[1].issuer, pair.b.data.issuer().unwrap().ca().spki_sha256());

    let del = |revoke_issuer| Call::ControllerDel { name: label("b"), revoke_issuer };
    let error = pair.a.refusal(del(false)).await;
    assert!(error.code == ErrorCode::Conflict && error.message.contains("runs"), "{error}");
    let own = Call::ControllerDel { name: label("a"), revoke_issuer: false };
    assert_eq!(pair.a.refusal(own).await.code, ErrorCode::Conflict);
    let missing = Call::ControllerDel { name: label("c"), revoke_issuer: false };
    assert_eq!(pair.a.refusal(missing).await.code, ErrorCode::NotFound);

    // It signs with another CA since, and still has the key of the one that it has let an edge in with.
    let later = another_ca(&pair.b, &pair.a);
    local::request_issuer(&pair.b.data.socket(), later, false).await.unwrap().unwrap();
    until(async || issuers(&pair.a).await.iter().any(|row| row.fingerprint == later && row.signs))
        .await;
    // One that it had before, and may sign with again.
    let earlier = Fingerprint::from_bytes([9; 32]);
    let issuer = IssuerRecord {
        controller: label("b"),
        root: Fingerprint::from_bytes([8; 32]),
        not_before: 0,
        not_after: u64::MAX / 2,
        added: u64::MAX / 2,
        signs: false,
    };
    put(&pair.a, &Key::Issuer(earlier), Some(record::encode(&issuer))).await;

    // In other hands: with its CAs it goes although it runs, and with it whom it has let in.
    let mut cut = Edge::connect(pair.a.only(&y), None);
    cut.until(|_| true).await;
    let changed = pair.a.change(del(true)).await;
    let state = kept.until(|state| state.version.mesh >= changed.version.mesh).await;
    assert_eq!(state.controllers.len(), 1, "one update has both");
    assert_eq!(state.trust.revoked_issuers.len(), 3);
    assert!(state.trust.revoked_issuers.contains(&earlier));
    let Reply::Ca(ca) = pair.a.reply(Call::CaStatus).await else { panic!("the CAs") };
    let mut of_b = ca.issuers.iter().filter(|row| row.controller == label("b"));
    assert!(of_b.all(|row| row.revoked && !row.signs), "nothing waits for it");
    assert!(!state.denied.is_empty());
    cut.event(|seen| matches!(seen, Seen::Goodbye(GoodbyeReason::Revoked))).await;
    assert!(matches!(pair.b.ended().await, Err(RunError::Removed(_))));
    // Nor does it come up again.
    pair.b.start().await;
    assert!(matches!(pair.b.ended().await, Err(RunError::Removed(_))));
    assert_eq!(
        pair.a.refusal(Call::ControllerShow { name: label("b") }).await.code,
        ErrorCode::NotFound
    );
}

/// Writes past the controllers.
async fn put(member: &Member, key: &Key, value: Option<Vec<u8>>) {
    let key = key.to_string();
    let op = match value {
        Some(value) => Op::Put { key, value },
        None => Op::Delete { key },
    };
    member.store.commit(Txn { compares: Vec::new(), ops: vec![op] }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_without_its_registration_stops() {
    let mut pair = Pair::with_edges(&[]).await;
    put(&pair.a, &Key::Controller(label("b")), None).await;
    assert!(matches!(pair.b.ended().await, Err(RunError::Removed(_))));
    pair.b.start().await;
    assert!(matches!(pair.b.ended().await, Err(RunError::Removed(_))));
    let show = Call::ControllerShow { name: label("b") };
    assert_eq!(pair.a.refusal(show).await.code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controllers_certificate_that_the_store_lost_is_denied_with_it() {
    let mut pair = Pair::with_edges(&[]).await;
    pair.b.stop().await;
    let serial = pair.b.data.credentials().unwrap().identity().serial;
    put(&pair.a, &Key::Cert(serial), None).await;
    pair.b.start().await;
    until(async || certs(&pair.a).await.iter().any(|row| row.serial == serial)).await;
    pair.b.stop().await;
    let show = || Call::ControllerShow { name: label("b") };
    until(async || match pair.a.reply(show()).await {
        Reply::Controllers(rows) => rows[0].running.is_none(),
        other => panic!("{other:?}"),
    })
    .await;
    pair.a.change(Call::ControllerDel { name: label("b"), revoke_issuer: false }).await;
    let rows = certs(&pair.a).await;
    let own = rows.iter().find(|row| row.serial == serial).unwrap();
    assert!(matches!(own.state, CertState::Revoked { .. }), "{own:?}");
}

/// An edge that knows both controllers and is with this one for long enough to be moved at once.
async fn settled(member: &Member, identity: &Identity) -> Edge {
    let both = identity.client();
    let mut edge = Edge::connect(member.only(identity), None);
    edge.until(|_| true).await;
    edge.commands.send(Command::Client(both)).await.unwrap();
    edge.event(|seen| matches!(seen, Seen::Connected)).await;
    edge
}

/// One controller as another one's client.
fn as_controller(of: &Member, at: &Member) -> Client {
    let credentials = of.data.credentials().unwrap().credentials();
    let bundle = cframe_pki::bundle::TrustBundle {
        roots: vec![of.data.issuer().unwrap().root().der.clone()],
        ..Default::default()
    };
    client(&credentials, bundle, vec![Endpoint::from(at.control)])
}

async fn certs(member: &Member) -> Vec<CertRow> {
    match member.reply(Call::CertList { namespace: None }).await {
        Reply::Certs(rows) => rows,
        other => panic!("{other:?}"),
    }
}

fn is_controller(row: &CertRow, wanted: &str) -> bool {
    matches!(&row.id.role, Role::Controller { name } if name.as_str() == wanted)
}

async fn state_of(member: &Member, edge: &str) -> EdgeLiveness {
    row(member, edge).await.state
}

async fn row(member: &Member, edge: &str) -> EdgeRow {
    let show = Call::EdgeShow { namespace: label("prod"), name: label(edge) };
    match member.reply(show).await {
        Reply::Edges(mut rows) => rows.remove(0),
        other => panic!("{other:?}"),
    }
}

fn wait(version: Version, timeout_secs: u32) -> Call {
    Call::Wait { namespace: label("prod"), version, timeout_secs }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_controllers_ask_each_other_is_not_in_the_audit_log() {
    let pair = Pair::with_edges(&["x"]).await;
    pair.both_run().await;
    for _ in 0..5 {
        pair.a.status().await;
        pair.b.call(Call::EdgeList { namespace: None }).await.unwrap();
    }
    // What is refused is recorded, behind all that came before it.
    let missing = Call::ControllerDel { name: label("nobody"), revoke_issuer: false };
    for member in [&pair.a, &pair.b] {
        member.refusal(missing.clone()).await;
    }
    let logged = async || match pair.a.reply(Call::Audit(AuditQuery::default())).await {
        Reply::Audit(rows) => rows.into_iter().map(|row| row.record).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    until(async || {
        logged().await.iter().filter(|record| record.contains("controller-del")).count() == 2
    })
    .await;
    for record in logged().await {
        let looks = ["\"sessions\"", "\"behind\"", "\"status\"", "\"edge-list\""];
        assert!(!looks.iter().any(|call| record.contains(call)), "{record}");
    }
}
