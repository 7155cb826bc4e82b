//! Controllers that misbehave: the session ends with the reason, and the next one starts.

use std::time::{Duration, Instant};

use cframe_protocol::{
    desired::Refused,
    frame::encode,
    session::{CloseCode, Command, Event, SessionError},
    v1::{FromEdge, LinkReport, Report},
};
use quinn::SendStream;
use tokio::time::timeout;

use crate::{
    server::{Edge, soon, update, version},
    session_test::SessionTest,
};

#[tokio::test]
async fn a_stream_that_ends_within_a_frame() {
    after(async |send| {
        let frame = encode(&update(None, 1, &["10.0.0.0/8"], true)).unwrap();
        send.write_all(&frame[..frame.len() / 2]).await.unwrap();
        send.finish().unwrap();
    })
    .await
    .is_protocol("within a frame");
}

#[tokio::test]
async fn a_stream_that_ends() {
    after(async |send| send.finish().unwrap()).await.is_protocol("ended the stream");
}

#[tokio::test]
async fn a_length_beyond_the_limit() {
    after(async |send| {
        send.write_all(&65_537u32.to_be_bytes()).await.unwrap();
    })
    .await
    .is_protocol("65537 bytes");
}

#[tokio::test]
async fn a_length_of_four_gigabytes() {
    after(async |send| {
        send.write_all(&[0xff; 4]).await.unwrap();
    })
    .await
    .is_protocol("4294967295 bytes");
}

#[tokio::test]
async fn a_body_that_is_garbage() {
    after(async |send| {
        let frame = [&10u32.to_be_bytes()[..], &2u16.to_be_bytes(), &[0xff; 8]].concat();
        send.write_all(&frame).await.unwrap();
    })
    .await
    .is_protocol("type 2 is malformed");
}

#[tokio::test]
async fn bytes_after_a_body_s_end() {
    after(async |send| {
        let frame = encode(&update(None, 1, &[], true)).unwrap();
        let len = u32::try_from(frame.len() - 4 + 1).unwrap();
        let longer = [&len.to_be_bytes()[..], &frame[4..], &[0]].concat();
        send.write_all(&longer).await.unwrap();
    })
    .await
    .is_protocol("1 bytes follow");
}

#[tokio::test]
async fn an_update_for_a_version_that_the_edge_does_not_have() {
    after(async |send| {
        let frame = encode(&update(Some(3), 4, &[], true)).unwrap();
        send.write_all(&frame).await.unwrap();
    })
    .await
    .is_refused(&Refused::From { from: Some(version(3)), have: None });
}

#[tokio::test]
async fn an_update_that_leads_back() {
    after(async |send| {
        for frame in [update(None, 7, &[], true), update(None, 6, &[], true)] {
            send.write_all(&encode(&frame).unwrap()).await.unwrap();
        }
    })
    .await
    .is_refused(&Refused::Older { have: version(7), to: version(6) });
}

#[tokio::test]
async fn half_a_frame_and_then_silence() {
    after(async |send| {
        let frame = encode(&update(None, 1, &["10.0.0.0/8"], true)).unwrap();
        send.write_all(&frame[..frame.len() / 2]).await.unwrap();
    })
    .await
    .is_silent();
}

#[tokio::test]
async fn silence() {
    after(async |_| {}).await.is_silent();
}

#[tokio::test]
async fn a_connection_on_which_no_stream_is_taken() {
    let (server, mut edge) = SessionTest::new().start();
    let connection = server.connection().await.unwrap();
    let mut errors = ended(&mut edge).await;
    assert!(matches!(errors.pop(), Some(SessionError::Silent)), "{errors:?}");
    drop(connection);
    server.edge().await;
    edge.stop().await;
}

#[tokio::test]
async fn a_controller_that_takes_nothing_does_not_hold_the_edge() {
    let (server, mut edge) = SessionTest::new().start();
    // Reads nothing, so that the windows get full.
    let held = server.raw().await;
    edge.connected().await;
    let commands = edge.commands.clone();
    let sending =
        tokio::spawn(
            async move { while commands.send(Command::Report(report())).await.is_ok() {} },
        );
    let error = edge.disconnected().await;
    assert!(matches!(error, SessionError::Silent), "{error}");
    drop(held);
    let mut peer = server.edge().await;
    assert!(matches!(peer.next().await, FromEdge::Report(_)));
    edge.stop().await;
    soon(sending).await.unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_controller_that_takes_nothing() {
    let (server, mut edge) = SessionTest::new().start();
    let _held = server.raw().await;
    edge.connected().await;
    // A full channel of commands shows that the session waits for the controller.
    let stuck = Duration::from_millis(500);
    while timeout(stuck, edge.commands.send(Command::Report(report()))).await.is_ok() {}
    let started = Instant::now();
    edge.stop().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

fn report() -> Report {
    let peer = "x".repeat(63).parse().unwrap();
    let link = LinkReport { peer, up: true, rtt_us: 1, path_mtu: 1, since_unix: 1 };
    Report { links: vec![link; Report::MAX_LINKS], cert_not_after: 1, applied: None }
}

struct End(SessionError);

impl End {
    fn is_protocol(&self, what: &str) {
        assert!(matches!(&self.0, SessionError::Protocol(why) if why.contains(what)), "{}", self.0);
    }

    fn is_refused(&self, why: &Refused) {
        assert!(matches!(&self.0, SessionError::Refused(refused) if refused == why), "{}", self.0);
    }

    fn is_silent(&self) {
        assert!(matches!(self.0, SessionError::Silent), "{}", self.0);
    }
}

/// Lets a controller misbehave after the hello. Checks that it gets the right close code, and that the
/// edge reconnects.
async fn after(misbehave: impl AsyncFnOnce(&mut SendStream)) -> End {
    let (server, mut edge) = SessionTest::new().start();
    let (connection, mut send, _reader) = server.raw().await;
    misbehave(&mut send).await;
    let mut errors = ended(&mut edge).await;
    let error = errors.pop().unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    let code = CloseCode::of(&soon(connection.closed()).await);
    let at_fault = !matches!(error, SessionError::Silent);
    assert_eq!(code, Some(if at_fault { CloseCode::Protocol } else { CloseCode::Done }));

    server.edge().await;
    edge.connected().await;
    edge.stop().await;
    End(error)
}

async fn ended(edge: &mut Edge) -> Vec<SessionError> {
    loop {
        match edge.event().await {
            Event::Connected { .. } | Event::Desired { .. } => {}
            Event::Disconnected(error) => return vec![error],
            other => panic!("{other:?}"),
        }
    }
}
