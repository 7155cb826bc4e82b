//! Peers that misbehave.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_pki::tls;
use cframe_protocol::{
    frame::{Message, encode},
    session::{Client, CloseCode, FrameReader, transport},
    v1::{Ack, AdminRequest, EdgeHello, EnrollRequest, RenewRequest, Update, Version},
};
use quinn::{Connection, ConnectionError, Endpoint};
use rustls::ClientConfig;

use crate::support::{
    admin::AdminCalls,
    calls::route_add,
    controller::TestController,
    edge::{SessionEvent, TestEdge, join},
    wait::in_time,
};

async fn dial(tls: Arc<ClientConfig>, at: SocketAddr) -> (Endpoint, Connection) {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = transport::client_config(tls).unwrap();
    let connecting = endpoint.connect_with(config, at, tls::SERVER_NAME).unwrap();
    let connection = in_time(connecting).await.unwrap();
    (endpoint, connection)
}

/// Writes bytes on a new stream, and waits until the controller closes the connection.
async fn send_bytes(tls: Arc<ClientConfig>, at: SocketAddr, bytes: &[u8]) -> ConnectionError {
    let (_endpoint, connection) = dial(tls, at).await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    // An error means that the controller closed it meanwhile.
    let _ = send.write_all(bytes).await;
    in_time(connection.closed()).await
}

fn frame(kind: u16, len: u32, body: &[u8]) -> Vec<u8> {
    [&len.to_be_bytes()[..], &kind.to_be_bytes(), body].concat()
}

fn garbage() -> Vec<Vec<u8>> {
    let hello = EdgeHello { have: None, software: "x".into(), boot: [0; 16] };
    let good = encode(&hello).unwrap().to_vec();
    let mut trailing = good.clone();
    trailing.push(0);
    trailing[..4].copy_from_slice(&u32::try_from(good.len() - 4 + 1).unwrap().to_be_bytes());
    let type_of = |kind: u16| frame(kind, 2 + 8, &[0xff; 8]);
    vec![
        frame(EdgeHello::TYPE, u32::MAX, &[]),
        frame(EdgeHello::TYPE, 65_537, &[0; 64]),
        frame(EdgeHello::TYPE, 0, &[]),
        frame(EdgeHello::TYPE, 1, &[]),
        type_of(EdgeHello::TYPE),
        type_of(AdminRequest::TYPE),
        type_of(EnrollRequest::TYPE),
        trailing,
        // A hello, and then what must not follow it.
        [good.clone(), good.clone()].concat(),
        [good.clone(), type_of(Ack::TYPE)].concat(),
        [good, frame(RenewRequest::TYPE, 2 + 9, &[0xfd; 9])].concat(),
        // A list of four billion routes.
        frame(6, 2 + 6, &[0xfc, 0xff, 0xff, 0xff, 0xff, 0]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_own_session_and_no_other() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    let (a, b) = (controller.join("a").await, controller.join("b").await);
    let mut witness = TestEdge::online(b.client()).await;
    let Client { tls, .. } = a.client();
    for bytes in garbage() {
        let end = send_bytes(Arc::clone(&tls), controller.control, &bytes).await;
        let code = CloseCode::of(&end);
        // Unknown types are skipped. Then the session ends because nothing follows.
        assert!(
            matches!(code, Some(CloseCode::Protocol | CloseCode::Done)),
            "{end} after {bytes:?}"
        );
    }
    let changed = controller.change(route_add("r", "10.244.0.0/16", "b")).await;
    witness.state(|state| state.version == changed.version).await;
    assert!(matches!(witness.events.try_recv(), Ok(SessionEvent::Connected)));
    assert!(witness.events.try_recv().is_err(), "the witness lost its session");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_enrolment_port_closes_the_connection_and_uses_up_no_token() {
    let controller = TestController::with_edges(&["a"]).await;
    let token = controller.token("a").await;
    let tls = Arc::new(tls::enroll_client(token.pin));
    for bytes in [
        frame(EnrollRequest::TYPE, 4_097, &[0; 64]),
        frame(EnrollRequest::TYPE, u32::MAX, &[]),
        frame(EnrollRequest::TYPE, 10, &[0xff; 8]),
    ] {
        let end = send_bytes(Arc::clone(&tls), controller.enroll, &bytes).await;
        assert_eq!(CloseCode::of(&end), Some(CloseCode::Protocol), "{end}");
    }
    for (secret, csr) in
        [(Vec::new(), Vec::new()), (token.secret.as_bytes().to_vec(), vec![1; 3000])]
    {
        let request = EnrollRequest { token_id: *token.id.as_bytes(), secret, csr };
        let end = send_bytes(Arc::clone(&tls), controller.enroll, &encode(&request).unwrap()).await;
        assert_eq!(CloseCode::of(&end), Some(CloseCode::Done), "{end}");
    }
    join(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_noise_disturb_nobody() {
    let controller = TestController::with_edges(&["a"]).await;
    let a = controller.join("a").await;
    let mut edge = TestEdge::online(a.client()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..2_000 {
        let packet: Vec<u8> = (0..(round % 1_200))
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                noise.to_be_bytes()[0]
            })
            .collect();
        for port in [controller.control, controller.enroll] {
            let _ = socket.send_to(&packet, port);
        }
    }
    let changed = controller.change(route_add("r", "10.244.0.0/16", "a")).await;
    edge.state(|state| state.version == changed.version).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_in_a_hello_is_not_believed() {
    // An edge's messages name no namespace. What an edge can lie about is the version that it has.
    let controller = TestController::with_edges(&["a"]).await;
    let a = controller.join("a").await;
    let (_endpoint, connection) = dial(a.client().tls, controller.control).await;
    let (mut send, receive) = connection.open_bi().await.unwrap();
    let never = Version { epoch: 1, mesh: u64::MAX, namespace: u64::MAX };
    let hello = EdgeHello { have: Some(never), software: "x".repeat(3000), boot: [0; 16] };
    send.write_all(&encode(&hello).unwrap()).await.unwrap();
    let mut reader = FrameReader::new(receive, 65_536);
    let update = in_time(reader.next::<Update>()).await;
    assert_eq!(update.unwrap().unwrap().from, None, "an unknown version gets everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_nothing_is_disconnected() {
    let controller = TestController::with_edges(&["a"]).await;
    let a = controller.join("a").await;
    let (_endpoint, connection) = dial(a.client().tls, controller.control).await;
    let start = Instant::now();
    in_time(connection.closed()).await;
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}
