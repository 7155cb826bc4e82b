//! Edges that take nothing.

use cframe_protocol::{
    frame::MAX_FRAME,
    session::{FrameReader, FrameWriter},
    v1::{Ack, EdgeHello, ToEdge, Update},
};
use tokio::time::timeout;

use crate::world::{Edge, PATIENCE, World, route_add};

const EDITS: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_reads_nothing_finds_one_update_of_everything_and_disturbs_nobody() {
    let world = World::with_edges(&["slow", "quick"]).await;
    let slow = world.join("prod", "slow").await.client();
    let mut quick = Edge::connect(world.join("prod", "quick").await.client(), None);
    quick.until(|_| true).await;

    let connected = slow.connect().await.unwrap();
    let (send, receive) = connected.connection.open_bi().await.unwrap();
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(receive, MAX_FRAME));
    writer.send(&EdgeHello { have: None, software: "test".into(), boot: [1; 16] }).await.unwrap();
    let first = update(&mut reader).await;
    assert!(first.last && first.from.is_none());
    // Neither read from nor acknowledged while the others go on.
    let mut newest = first.to;
    for index in 0..EDITS {
        let prefix = format!("10.200.{index}.0/24");
        newest = world.change(route_add(&format!("r{index}"), &prefix, "quick")).await.version;
    }
    quick.until(|state| state.version == newest).await;

    // What waits for it are pings, and no update: all edits are in the one that follows its acknowledgement.
    writer.send(&Ack { version: first.to }).await.unwrap();
    let mut version = Some(first.to);
    let (mut updates, mut changes) = (0, 0);
    while version != Some(newest) {
        let Update { from, to, changes: some, last } = update(&mut reader).await;
        assert_eq!(from, version);
        changes += some.len();
        if last {
            version = Some(to);
            updates += 1;
            writer.send(&Ack { version: to }).await.unwrap();
        }
    }
    assert_eq!((updates, changes), (1, EDITS));
}

/// The next update; what else comes is passed over.
async fn update(reader: &mut FrameReader) -> Update {
    timeout(PATIENCE, async {
        loop {
            if let ToEdge::Update(update) = reader.next::<ToEdge>().await.unwrap().unwrap() {
                return update;
            }
        }
    })
    .await
    .expect("in time")
}
