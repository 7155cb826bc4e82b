//! A store that an earlier version has written.

use cframe_protocol::v1::{Call, EdgeLiveness, Reply};
use cframe_store::{Op, Store, redb::Redb};

use crate::support::{
    admin::AdminCalls,
    calls::label,
    controller::TestController,
    edge::TestEdge,
    wait::until,
    writes::{key, uncompared},
};

/// Removes what only later versions store of edges. Returns how many had it.
async fn forget_memberships(controller: &TestController) -> usize {
    let store = Redb::open(&controller.data.store()).unwrap();
    let mut count = 0;
    for entry in store.list(&key("edges/")).await.unwrap().entries {
        let mut value: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
        count += usize::from(value.as_object_mut().unwrap().remove("membership").is_some());
        let op = Op::Put { key: entry.key, value: serde_json::to_vec(&value).unwrap() };
        store.commit(uncompared(vec![op])).await.unwrap();
    }
    store.close().await;
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_of_a_store_without_memberships_are_what_their_certificates_say() {
    let mut controller = TestController::with_edges(&["a", "b", "c", "d"]).await;
    let mut identities = Vec::new();
    for name in ["a", "b", "d"] {
        identities.push(controller.join(name).await);
    }
    let serial = identities[1].serial();
    controller.change(Call::CertRevoke { serial, reason: String::new() }).await;
    controller.stop().await;
    assert_eq!(forget_memberships(&controller).await, 4);
    controller.start_again().await;

    let mut d = TestEdge::online(identities[2].client()).await;
    let is = async |name: &str, wanted: fn(&EdgeLiveness) -> bool| {
        let state = controller.edge(name).await.state;
        assert!(wanted(&state), "{name}: {state:?}");
    };
    is("a", |state| matches!(state, EdgeLiveness::Offline { .. })).await;
    is("b", |state| matches!(state, EdgeLiveness::Revoked { .. })).await;
    is("c", |state| matches!(state, EdgeLiveness::NeverSeen)).await;
    let status = controller.status().await;
    let codes: Vec<&str> = status.problems.iter().map(|group| group.code.as_str()).collect();
    // The other edge may still come back to the controller that has just started.
    assert_eq!(codes, ["edge-revoked", "not-joined"], "{status:?}");
    // The others get it too.
    let members = |name: &str| ["a", "d"].contains(&name);
    d.state(|state| state.edges.iter().all(|(name, edge)| edge.joined == members(name.as_str())))
        .await;
    // And it is stored: the next version need not derive it.
    let stored = async || {
        let dump = controller.merged_reply(Call::Backup).await;
        let Reply::Chunk(dump) = dump else { panic!("a backup") };
        let dump = String::from_utf8(dump).unwrap();
        let edges = dump.lines().filter(|line| line.contains("\"key\":\"/cframe/v1/edges/"));
        edges.filter(|line| line.contains("\"membership\":")).count() == 4
    };
    until(stored).await;
    assert_eq!(controller.edge("c").await.name, label("c"));
}
