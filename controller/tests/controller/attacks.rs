use std::{net::UdpSocket, sync::Arc, time::Duration};

use cframe_pki::tls;
use cframe_protocol::{
    frame::{Message, encode},
    session::{Client, CloseCode, transport},
    v1::{Ack, AdminRequest, EdgeHello, EnrollRequest, RenewRequest, Version},
};
use quinn::{Connection, ConnectionError, Endpoint};
use tokio::time::timeout;

use crate::world::{Edge, PATIENCE, World, route_add};

async fn dial(tls: Arc<rustls::ClientConfig>, at: std::net::SocketAddr) -> (Endpoint, Connection) {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = transport::client_config(tls).unwrap();
    let connecting = endpoint.connect_with(config, at, tls::SERVER_NAME).unwrap();
    let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    (endpoint, connection)
}

/// Writes bytes on a new stream and tells how the connection ended.
async fn say(
    tls: Arc<rustls::ClientConfig>,
    at: std::net::SocketAddr,
    bytes: &[u8],
) -> ConnectionError {
    let (_endpoint, connection) = dial(tls, at).await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    // It may be closed in our face.
    let _ = send.write_all(bytes).await;
    timeout(PATIENCE, connection.closed()).await.expect("closed by the controller")
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
        // A hello, and then what does not follow one.
        [good.clone(), good.clone()].concat(),
        [good.clone(), type_of(Ack::TYPE)].concat(),
        [good, frame(RenewRequest::TYPE, 2 + 9, &[0xfd; 9])].concat(),
        // A list of four thousand million routes.
        frame(6, 2 + 6, &[0xfc, 0xff, 0xff, 0xff, 0xff, 0]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_own_session_and_no_other() {
    let world = World::with_edges(&["a", "b"]).await;
    let (a, b) = (world.join("prod", "a").await, world.join("prod", "b").await);
    let mut witness = Edge::connect(b.client(), None);
    witness.until(|_| true).await;
    let Client { tls, .. } = a.client();
    for bytes in garbage() {
        let end = say(Arc::clone(&tls), world.control, &bytes).await;
        let code = CloseCode::of(&end);
        // Unknown types are skipped; the silence that follows ends such a session.
        assert!(
            matches!(code, Some(CloseCode::Protocol | CloseCode::Done)),
            "{end} after {bytes:?}"
        );
    }
    let changed = world.change(route_add("r", "10.244.0.0/16", "b")).await;
    witness.until(|state| state.version == changed.version).await;
    assert!(
        witness.events.try_recv().is_ok_and(|seen| matches!(seen, crate::world::Seen::Connected))
    );
    assert!(witness.events.try_recv().is_err(), "the witness lost its session");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_enrolment_port_is_closed_and_uses_no_token_up() {
    let world = World::with_edges(&["a"]).await;
    let token = world.token("prod", "a", false).await;
    let tls = Arc::new(tls::enroll_client(token.pin));
    for bytes in [
        frame(EnrollRequest::TYPE, 4_097, &[0; 64]),
        frame(EnrollRequest::TYPE, u32::MAX, &[]),
        frame(EnrollRequest::TYPE, 10, &[0xff; 8]),
    ] {
        let end = say(Arc::clone(&tls), world.enroll, &bytes).await;
        assert_eq!(CloseCode::of(&end), Some(CloseCode::Protocol), "{end}");
    }
    for (secret, csr) in
        [(Vec::new(), Vec::new()), (token.secret.as_bytes().to_vec(), vec![1; 3000])]
    {
        let request = EnrollRequest { token_id: *token.id.as_bytes(), secret, csr };
        let end = say(Arc::clone(&tls), world.enroll, &encode(&request).unwrap()).await;
        assert_eq!(CloseCode::of(&end), Some(CloseCode::Done), "{end}");
    }
    crate::world::join(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_noise_disturb_nobody() {
    let world = World::with_edges(&["a"]).await;
    let a = world.join("prod", "a").await;
    let mut edge = Edge::connect(a.client(), None);
    edge.until(|_| true).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..2_000 {
        let packet: Vec<u8> = (0..(round % 1_200))
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                noise.to_be_bytes()[0]
            })
            .collect();
        for port in [world.control, world.enroll] {
            let _ = socket.send_to(&packet, port);
        }
    }
    let changed = world.change(route_add("r", "10.244.0.0/16", "a")).await;
    edge.until(|state| state.version == changed.version).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_in_a_message_is_not_believed() {
    // There is none in any message of an edge; what it can lie about is the version that it has.
    let world = World::with_edges(&["a"]).await;
    let a = world.join("prod", "a").await;
    let (_endpoint, connection) = dial(a.client().tls, world.control).await;
    let (mut send, receive) = connection.open_bi().await.unwrap();
    let never = Version { epoch: 1, mesh: u64::MAX, namespace: u64::MAX };
    let hello = EdgeHello { have: Some(never), software: "x".repeat(3000), boot: [0; 16] };
    send.write_all(&encode(&hello).unwrap()).await.unwrap();
    let mut reader = cframe_protocol::session::FrameReader::new(receive, 65_536);
    let update = timeout(PATIENCE, reader.next::<cframe_protocol::v1::Update>()).await;
    assert_eq!(update.unwrap().unwrap().unwrap().from, None, "an unknown version gets everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_nothing_is_let_go() {
    let world = World::with_edges(&["a"]).await;
    let a = world.join("prod", "a").await;
    let (_endpoint, connection) = dial(a.client().tls, world.control).await;
    let begun = std::time::Instant::now();
    timeout(PATIENCE, connection.closed()).await.expect("closed by the controller");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}
