use std::time::Instant;

use cframe_protocol::{
    session::Command,
    v1::{Call, EdgeLiveness, EdgeRow, ErrorCode, LinkReport, Reply, Report},
};

use crate::world::{Edge, PATIENCE, Seen, World, edge_add, label, route_add};

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_every_session_as_a_difference() {
    let world = World::with_edges(&["a", "b", "c"]).await;
    let mut edges = Vec::new();
    for name in ["a", "b", "c"] {
        let identity = world.join("prod", name).await;
        let mut edge = Edge::connect(identity.client(), None);
        edge.until(|_| true).await;
        edges.push(edge);
    }
    let mut slowest = std::time::Duration::ZERO;
    for index in 0..20 {
        let begun = Instant::now();
        let route = route_add(&format!("r{index}"), &format!("10.200.{index}.0/24"), "b");
        let version = world.change(route).await.version;
        for edge in &mut edges {
            let state = edge.until(|state| state.version.at_least(&version)).await;
            let net = format!("10.200.{index}.0/24").parse().unwrap();
            assert_eq!(state.prefixes[&net].as_str(), "b");
        }
        slowest = slowest.max(begun.elapsed());
    }
    eprintln!("slowest of 20 edits, command to all three edges: {slowest:?}");
    let wait = Call::Wait {
        namespace: label("prod"),
        version: edges[0].desired.borrow().as_ref().unwrap().version,
        timeout_secs: 10,
    };
    let replies = world.call(wait).await.unwrap();
    let Some(Reply::Progress(last)) = replies.last() else { panic!("{replies:?}") };
    assert_eq!((last.acked, last.total), (3, 3));
    let Reply::Status(status) = world.reply(Call::Status).await else { panic!("status") };
    let prod = &status.namespaces[0];
    assert_eq!((prod.edges, prod.online, prod.in_sync, prod.links_expected), (3, 3, 3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_was_away_gets_the_difference_and_one_of_another_epoch_everything() {
    let world = World::with_edges(&["a", "b"]).await;
    let identity = world.join("prod", "a").await;
    let mut edge = Edge::connect(identity.client(), None);
    let before = edge.until(|_| true).await;
    drop(edge);
    let changed = world.change(route_add("r", "10.244.0.0/16", "b")).await;
    let mut edge = Edge::connect(identity.client(), Some(before.clone()));
    let after = edge.until(|state| state.version == changed.version).await;
    assert_eq!(before.diff(&after).len(), 1);
    drop(edge);
    let mut older = (*after).clone();
    older.version.epoch -= 1;
    older.version.namespace += 100;
    older.prefixes.clear();
    let mut edge = Edge::connect(identity.client(), Some(older.into()));
    assert_eq!(edge.until(|state| state.version == after.version).await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_behind_sends_nothing_older() {
    let world = World::with_edges(&["a"]).await;
    let identity = world.join("prod", "a").await;
    let mut edge = Edge::connect(identity.client(), None);
    let mut ahead = (*edge.until(|_| true).await).clone();
    drop(edge);
    ahead.version.namespace += 1;
    let mut edge = Edge::connect(identity.client(), Some(ahead.clone().into()));
    edge.event(|seen| matches!(seen, Seen::Connected)).await;
    world.change(route_add("one", "10.243.0.0/16", "a")).await;
    let changed = world.change(route_add("two", "10.244.0.0/16", "a")).await;
    // Nothing of what it knew better was taken back: the first that it hears is the newer state.
    let state = edge.until(|_| true).await;
    assert!(state.version.at_least(&ahead.version), "{}", state.version);
    edge.until(|state| state.version == changed.version).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_checks_and_changes_nothing() {
    let world = World::with_edges(&["a"]).await;
    let dry = |call| cframe_protocol::session::admin_call(&world.admin, call, true, PATIENCE);
    let replies = dry(edge_add("prod", "b", "10.7.0.0/16")).await.unwrap();
    assert!(matches!(replies[0], Reply::Changed(_)));
    let error = crate::world::refused(dry(edge_add("prod", "b", "10.1.7.0/24")).await);
    assert_eq!(error.code, ErrorCode::Conflict);
    let show = Call::EdgeShow { namespace: label("prod"), name: label("b") };
    assert_eq!(world.refusal(show).await.code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_an_edge_is_one_update() {
    let world = World::with_edges(&["a", "b"]).await;
    let identity = world.join("prod", "b").await;
    let mut edge = Edge::connect(identity.client(), None);
    edge.until(|_| true).await;
    let set = Call::EdgeSet {
        namespace: label("prod"),
        name: label("a"),
        cidrs: Some(vec!["10.77.0.0/16".parse().unwrap()]),
        endpoints: Some(vec!["198.51.100.1:58423".parse().unwrap()]),
        description: None,
    };
    let changed = world.change(set).await;
    let state = edge.until(|state| state.version == changed.version).await;
    assert_eq!(state.edges["a"].endpoints[0].as_str(), "198.51.100.1:58423");
    assert!(state.prefixes.contains_key(&"10.77.0.0/16".parse().unwrap()));
    assert!(!state.prefixes.contains_key(&"10.1.0.0/16".parse().unwrap()));
    // A description is nobody's business on the wire.
    let set = Call::EdgeSet {
        namespace: label("prod"),
        name: label("a"),
        cidrs: None,
        endpoints: None,
        description: Some("Hong Kong".to_owned()),
    };
    assert_eq!(world.change(set).await.version, changed.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_worth_a_second_look_is_said() {
    let world = World::with_edges(&[]).await;
    let add = |name: &str, cidr: &str, endpoints: &[&str]| Call::EdgeAdd {
        namespace: label("prod"),
        name: label(name),
        cidrs: vec![cidr.parse().unwrap()],
        endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
        description: String::new(),
    };
    let none = world.change(add("a", "10.1.0.0/16", &["203.0.113.7:58423"])).await.warnings;
    assert!(none.is_empty(), "{none:?}");
    let captured = world.change(add("b", "203.0.113.0/24", &[])).await.warnings;
    assert!(
        captured.iter().any(|text| text.contains("203.0.113.7:58423 of edge a")),
        "{captured:?}"
    );
    let silent = world.change(add("c", "10.3.0.0/16", &[])).await.warnings;
    assert!(silent.iter().any(|text| text.contains("neither c nor b")), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_fails_writes_and_nothing_else() {
    use std::sync::atomic::Ordering;
    let world = World::with_edges(&["a"]).await;
    let identity = world.join("prod", "a").await;
    let mut before = Edge::connect(identity.client(), None);
    let state = before.until(|_| true).await;
    world.full.store(true, Ordering::SeqCst);
    let error = world.refusal(route_add("r", "10.244.0.0/16", "a")).await;
    assert_eq!(error.code, ErrorCode::StoreFull, "{error}");
    let Reply::Status(status) = world.reply(Call::Status).await else { panic!("status") };
    assert!(status.problems.iter().any(|text| text.contains("full")), "{:?}", status.problems);
    let mut meanwhile = Edge::connect(identity.client(), None);
    assert_eq!(meanwhile.until(|_| true).await, state);
    world.full.store(false, Ordering::SeqCst);
    let changed = world.change(route_add("r", "10.244.0.0/16", "a")).await;
    meanwhile.until(|state| state.version == changed.version).await;
    let Reply::Status(status) = world.reply(Call::Status).await else { panic!("status") };
    assert!(status.problems.iter().all(|text| !text.contains("full")), "{:?}", status.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn liveness_is_that_of_the_session() {
    let mut world = World::with_edges(&["a", "b"]).await;
    let identity = world.join("prod", "a").await;
    assert_eq!(liveness(&world, "b").await, EdgeLiveness::NeverSeen);
    let mut edge = Edge::connect(identity.client(), None);
    edge.until(|_| true).await;
    assert!(matches!(liveness(&world, "a").await, EdgeLiveness::Online { .. }));
    world.restart().await;
    edge.event(|seen| matches!(seen, Seen::Goodbye(cframe_protocol::v1::GoodbyeReason::Shutdown)))
        .await;
    edge.event(|seen| matches!(seen, Seen::Connected)).await;
    drop(edge);
    tokio::time::timeout(PATIENCE, async {
        while !matches!(liveness(&world, "a").await, EdgeLiveness::Offline { .. }) {}
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_offline_has_no_links() {
    let world = World::with_edges(&["a", "b"]).await;
    let identity = world.join("prod", "a").await;
    let edge = Edge::connect(identity.client(), None);
    let link =
        LinkReport { peer: label("b"), up: true, rtt_us: 900, path_mtu: 1452, since_unix: 1 };
    let report = Report { links: vec![link], cert_not_after: 9, applied: None };
    edge.commands.send(Command::Report(report)).await.unwrap();
    let until = async |links: usize| {
        let reached = async { while row(&world, "a").await.links.len() != links {} };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    };
    until(1).await;
    let Reply::Status(status) = world.reply(Call::Status).await else { panic!("status") };
    assert_eq!(status.namespaces[0].links_up, 1);
    world.change(Call::CertRevoke { serial: identity.serial(), reason: "lost".to_owned() }).await;
    until(0).await;
    assert!(matches!(liveness(&world, "a").await, EdgeLiveness::Offline { .. }));
    let Reply::Status(status) = world.reply(Call::Status).await else { panic!("status") };
    assert_eq!(status.namespaces[0].links_up, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_cannot_follow_its_store_any_more_ends() {
    use std::sync::atomic::Ordering;
    let mut world = World::with_edges(&["a"]).await;
    world.panics.store(true, Ordering::SeqCst);
    let _ = world.call(route_add("r", "10.244.0.0/16", "a")).await;
    let end = world.ended().await;
    assert!(matches!(end, Err(cframe_controller::RunError::Broken)), "{end:?}");
}

async fn liveness(world: &World, name: &str) -> EdgeLiveness {
    row(world, name).await.state
}

async fn row(world: &World, name: &str) -> EdgeRow {
    let show = Call::EdgeShow { namespace: label("prod"), name: label(name) };
    match world.reply(show).await {
        Reply::Edges(mut rows) => rows.remove(0),
        other => panic!("{other:?}"),
    }
}
