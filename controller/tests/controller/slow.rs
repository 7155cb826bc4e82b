//! Edges that read nothing.

use cframe_protocol::{
    frame::MAX_FRAME,
    session::{FrameReader, FrameWriter},
    v1::{Ack, EdgeHello, ToEdge, Update},
};

use crate::support::{
    admin::AdminCalls, calls::route_add, controller::TestController, edge::TestEdge, wait::in_time,
};

const EDITS: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_reads_nothing_gets_one_update_of_everything_and_disturbs_nobody() {
    let controller = TestController::with_edges(&["slow", "quick"]).await;
    let slow = controller.join("slow").await.client();
    let mut quick = TestEdge::online(controller.join("quick").await.client()).await;

    let connected = slow.connect().await.unwrap();
    let (send, receive) = connected.connection.open_bi().await.unwrap();
    let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(receive, MAX_FRAME));
    writer.send(&EdgeHello { have: None, software: "test".into(), boot: [1; 16] }).await.unwrap();
    let first = update(&mut reader).await;
    assert!(first.last && first.from.is_none());
    // This edge reads and acknowledges nothing while the others go on.
    let mut newest = first.to;
    for index in 0..EDITS {
        let prefix = format!("10.200.{index}.0/24");
        newest = controller.change(route_add(&format!("r{index}"), &prefix, "quick")).await.version;
    }
    quick.state(|state| state.version == newest).await;

    // Only pings are queued for it, and no update. All edits are in the update that follows its acknowledgement.
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

/// The next update. Other messages are skipped.
async fn update(reader: &mut FrameReader) -> Update {
    in_time(async {
        loop {
            if let ToEdge::Update(update) = reader.next::<ToEdge>().await.unwrap().unwrap() {
                return update;
            }
        }
    })
    .await
}
