//! An edge's session with controllers that behave.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Instant,
};

use cframe_pki::verifier::Refusal;
use cframe_protocol::{
    frame::encode,
    session::{Client, CloseCode, Command, EdgeSession, Event, SessionError},
    v1::{
        Ack, CallError, Desired, Endpoint, ErrorCode, FromEdge, Goodbye, GoodbyeReason, LinkReport,
        Ping, Pong, RenewNow, RenewReply, RenewRequest, Report,
    },
};

use crate::{
    server::{Edge, Peer, Server, soon, update, version},
    session_test::SessionTest,
};

#[tokio::test]
async fn an_edge_gets_a_snapshot_then_a_delta_and_acknowledges_both() {
    let (server, mut edge) = SessionTest::new().start();

    let mut peer = server.edge().await;
    assert_eq!(peer.hello.have, None);
    assert_eq!((peer.hello.software.as_str(), peer.hello.boot), ("0.1.0", [7; 16]));
    edge.connected().await;
    peer.send(&update(None, 1, &["10.1.0.0/16"], false)).await;
    peer.send(&update(None, 1, &["10.2.0.0/16"], true)).await;
    let state = edge.desired().await;
    assert_eq!((state.version, state.prefixes.len()), (version(1), 2));
    edge.command(Command::Ack(version(1))).await;
    assert_eq!(peer.next().await, FromEdge::Ack(Ack { version: version(1) }));

    peer.send(&update(Some(1), 2, &["10.3.0.0/16"], true)).await;
    let state = edge.desired().await;
    assert_eq!((state.version, state.prefixes.len()), (version(2), 3));
    edge.command(Command::Ack(version(2))).await;
    assert_eq!(peer.next().await, FromEdge::Ack(Ack { version: version(2) }));

    edge.stop().await;
    assert_eq!(CloseCode::of(&peer.closed().await), Some(CloseCode::Done));
}

#[tokio::test]
async fn an_edge_that_knows_two_controllers_leaves_a_silent_one_within_five_seconds() {
    let (servers, mut edge) = SessionTest::new().start_two();
    let (first, mut peer) = first_session(&servers).await;
    edge.connected().await;
    peer.send(&update(None, 1, &[], true)).await;
    edge.desired().await;
    // It receives everything and answers no ping.
    let started = Instant::now();
    let next = servers[1 - first].edge().await;
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(next.hello.have, Some(version(1)));
    assert!(matches!(edge.disconnected().await, SessionError::Silent));
}

#[tokio::test]
async fn an_edge_that_moves_connects_before_it_leaves() {
    let test = SessionTest::new();
    let server = Server::control(test.control_server());
    // The same address twice: the edge moves from the controller to itself.
    let client = Client::new(vec![server.address(), server.address()], test.edge());
    let stay = std::time::Duration::from_millis(500);
    let session = EdgeSession::new(client, None, "0.1.0", [7; 16]).with_stay(stay);
    let mut edge = Edge::run(session);
    let mut first = server.edge().await;
    edge.connected().await;
    first.send(&update(None, 1, &["10.1.0.0/16"], true)).await;
    assert_eq!(edge.desired().await.version, version(1));
    edge.command(Command::Ack(version(1))).await;
    let second = server.edge().await;
    assert_eq!(second.hello.have, Some(version(1)), "it continues from its state");
    assert_eq!(CloseCode::of(&first.closed().await), Some(CloseCode::Done));
    edge.connected().await;
    edge.stop().await;
}

#[tokio::test]
async fn a_controller_that_vanishes_is_replaced_by_the_one_at_the_other_address() {
    let (servers, mut edge) = SessionTest::new().start_two();

    let (first, mut peer) = first_session(&servers).await;
    edge.connected().await;
    peer.send(&update(None, 1, &["10.1.0.0/16"], true)).await;
    edge.desired().await;
    // It moves to another port without closing its connections.
    servers[first].0.rebind(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();

    let error = edge.disconnected().await;
    assert!(matches!(error, SessionError::Silent), "{error}");
    let mut peer = servers[1 - first].edge().await;
    assert_eq!(peer.hello.have, Some(version(1)), "it continues from its state");
    edge.connected().await;
    peer.send(&update(Some(1), 2, &["10.2.0.0/16"], true)).await;
    assert_eq!(edge.desired().await.prefixes.len(), 2);
    edge.stop().await;
}

#[tokio::test]
async fn a_controller_that_stops_is_left_for_another_at_once() {
    let (servers, mut edge) = SessionTest::new().start_two();
    let (first, mut peer) = first_session(&servers).await;
    edge.connected().await;
    peer.send(&Goodbye { reason: GoodbyeReason::Shutdown }).await;
    assert!(matches!(edge.event().await, Event::Goodbye(GoodbyeReason::Shutdown)));
    servers[first].0.close(CloseCode::Shutdown.into(), b"");
    let error = edge.disconnected().await;
    assert!(matches!(error, SessionError::Closed(CloseCode::Shutdown)), "{error}");
    servers[1 - first].edge().await;
    edge.connected().await;
    edge.stop().await;
}

#[tokio::test]
async fn after_a_goodbye_the_session_has_ended_for_its_reason() {
    let (server, mut edge) = SessionTest::new().start();
    for (reason, code) in [
        (GoodbyeReason::Removed, CloseCode::Removed),
        (GoodbyeReason::Revoked, CloseCode::Revoked),
        (GoodbyeReason::Replaced, CloseCode::Done),
    ] {
        let mut peer = server.edge().await;
        edge.connected().await;
        peer.send(&Goodbye { reason }).await;
        // Like a controller: it ends the stream, and the connection once that has arrived.
        peer.writer.finish();
        peer.writer.delivered().await;
        assert!(matches!(edge.event().await, Event::Goodbye(told) if told == reason));
        let error = edge.disconnected().await;
        assert!(matches!(error, SessionError::Closed(found) if found == code), "{error}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_pings_every_second_and_a_half_with_and_without_answers() {
    let (server, mut edge) = SessionTest::new().start();
    let mut peer = server.edge().await;
    edge.connected().await;
    let mut pings = Vec::new();
    for _ in 0..3 {
        let ping = soon(peer.reader.next()).await.unwrap();
        assert!(matches!(ping, Some(FromEdge::Ping(_))), "{ping:?}");
        pings.push(Instant::now());
        if pings.len() == 1 {
            peer.send(&Pong { nonce: 1, version: None }).await;
        }
    }
    let between = pings[2] - pings[0];
    assert!((2.8..4.0).contains(&between.as_secs_f64()), "{between:?}");
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_continues_from_the_state_on_its_disk() {
    let test = SessionTest::new();
    let server = Server::control(test.control_server());
    let have = Desired { version: version(5), ..Desired::default() };
    let mut edge = Edge::start(vec![server.address()], test.edge(), Some(have));
    let mut peer = server.edge().await;
    assert_eq!(peer.hello.have, Some(version(5)));
    edge.connected().await;
    peer.send(&update(Some(5), 6, &["10.1.0.0/16"], true)).await;
    assert_eq!(edge.desired().await.version, version(6));
    edge.stop().await;
}

#[tokio::test]
async fn names_are_resolved_and_unreachable_addresses_are_skipped() {
    let test = SessionTest::new();
    let server = Server::control(test.control_server());
    let by_name = format!("localhost:{}", server.address().port()).parse().unwrap();
    let unused = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = unused.local_addr().unwrap().into();
    let unknown: Endpoint = "no-such-host.invalid:58422".parse().unwrap();
    let mut edge = Edge::start(vec![unknown, silent, by_name], test.edge(), None);
    server.edge().await;
    edge.connected().await;
    edge.stop().await;
}

#[tokio::test]
async fn pings_are_answered_with_what_is_applied() {
    let (server, mut edge) = SessionTest::new().start();
    let mut peer = server.edge().await;
    edge.connected().await;
    peer.send(&Ping { nonce: 11, version: Some(version(9)) }).await;
    assert_eq!(peer.next().await, FromEdge::Pong(Pong { nonce: 11, version: None }));
    peer.send(&update(None, 9, &[], true)).await;
    edge.desired().await;
    peer.send(&Ping { nonce: 12, version: None }).await;
    let pong = FromEdge::Pong(Pong { nonce: 12, version: None });
    assert_eq!(peer.next().await, pong, "version 9 is not applied yet");
    edge.command(Command::Ack(version(9))).await;
    assert!(matches!(peer.next().await, FromEdge::Ack(_)));
    peer.send(&Ping { nonce: 13, version: None }).await;
    assert_eq!(peer.next().await, FromEdge::Pong(Pong { nonce: 13, version: Some(version(9)) }));
    edge.stop().await;
}

#[tokio::test]
async fn an_idle_edge_pings_and_a_session_of_pongs_lasts() {
    let (server, mut edge) = SessionTest::new().start();
    let mut peer = server.edge().await;
    edge.connected().await;
    // Ten pings take longer than a silent peer is waited for.
    for _ in 0..10 {
        let Some(FromEdge::Ping(Ping { nonce, .. })) = soon(peer.reader.next()).await.unwrap()
        else {
            panic!("no ping");
        };
        peer.send(&Pong { nonce, version: None }).await;
    }
    peer.send(&update(None, 1, &[], true)).await;
    assert_eq!(edge.desired().await.version, version(1));
    edge.stop().await;
}

#[tokio::test]
async fn frames_of_unknown_types_are_skipped() {
    let (server, mut edge) = SessionTest::new().start();
    let (_connection, mut send, _reader) = server.raw().await;
    edge.connected().await;
    let unknown = [&8u32.to_be_bytes()[..], &999u16.to_be_bytes(), b"future"].concat();
    let known = encode(&update(None, 1, &[], true)).unwrap();
    send.write_all(&[&unknown, &known[..], &unknown].concat()).await.unwrap();
    assert_eq!(edge.desired().await.version, version(1));
    edge.stop().await;
}

#[tokio::test]
async fn renewal_is_requested_answered_and_refused() {
    let (server, mut edge) = SessionTest::new().start();
    let mut peer = server.edge().await;
    edge.connected().await;
    peer.send(&RenewNow {}).await;
    assert!(matches!(edge.event().await, Event::RenewNow));
    edge.command(Command::Renew { csr: vec![1, 2] }).await;
    assert_eq!(peer.next().await, FromEdge::RenewRequest(RenewRequest { csr: vec![1, 2] }));
    let refused = CallError::new(ErrorCode::NotAllowed, "no");
    peer.send(&RenewReply { result: Err(refused.clone()) }).await;
    let event = edge.event().await;
    assert!(matches!(event, Event::RenewReply(Err(error)) if error == refused));

    edge.command(Command::Renew { csr: vec![3] }).await;
    assert!(matches!(peer.next().await, FromEdge::RenewRequest(_)));
    peer.connection.close(CloseCode::Busy.into(), b"");
    let event = edge.event().await;
    let unavailable = |error: &CallError| error.code == ErrorCode::Unavailable;
    assert!(matches!(event, Event::RenewReply(Err(error)) if unavailable(&error)));
    assert!(matches!(edge.disconnected().await, SessionError::Closed(CloseCode::Busy)));
    edge.stop().await;
}

#[tokio::test]
async fn without_a_controller_renewal_fails_at_once_and_the_last_report_is_sent_later() {
    let test = SessionTest::new();
    let server = Server::control(test.control_server());
    let mut edge = Edge::start(Vec::new(), test.edge(), None);
    let error = edge.disconnected().await;
    assert!(matches!(error, SessionError::Unreachable(_)), "{error}");
    edge.command(Command::Renew { csr: vec![1] }).await;
    loop {
        match edge.event().await {
            Event::Disconnected(_) => {}
            Event::RenewReply(Err(error)) if error.code == ErrorCode::Unavailable => break,
            other => panic!("{other:?}"),
        }
    }
    edge.command(Command::Report(report(1))).await;
    edge.command(Command::Report(report(2))).await;
    let client = Client::new(vec![server.address()], test.edge());
    edge.command(Command::Client(client)).await;
    let mut peer = server.edge().await;
    assert_eq!(peer.next().await, FromEdge::Report(report(2)));
    edge.stop().await;
}

#[tokio::test]
async fn a_reader_that_is_slow_finds_the_newest_state() {
    let (server, mut edge) = SessionTest::new().start();
    let mut peer = server.edge().await;
    edge.connected().await;
    peer.send(&update(None, 1, &[], true)).await;
    for n in 1..200 {
        peer.send(&update(Some(n), n + 1, &[], true)).await;
    }
    // The edge answers after it has read all updates; nothing has read its events.
    peer.send(&Ping { nonce: 1, version: None }).await;
    assert!(matches!(peer.next().await, FromEdge::Pong(_)));
    let mut seen = Vec::new();
    while seen.last() != Some(&200) {
        seen.push(edge.desired().await.version.namespace);
    }
    assert!(seen.len() < 20 && seen.is_sorted(), "{seen:?}");
    edge.stop().await;
}

#[tokio::test]
async fn only_controllers_of_the_mesh_are_accepted() {
    let test = SessionTest::new();
    let other = SessionTest::new();
    for tls in [
        other.control_server(),
        test.control_server_as("ns/prod/edge/idc"),
        test.control_server_as("admin/alice"),
    ] {
        let server = Server::control(tls);
        let mut edge = Edge::start(vec![server.address()], test.edge(), None);
        assert!(server.connection().await.is_err());
        let error = edge.disconnected().await;
        assert!(matches!(error, SessionError::Unreachable(_)), "{error}");
        edge.stop().await;
    }
}

#[tokio::test]
async fn an_edge_learns_that_its_certificate_is_refused() {
    let test = SessionTest::new();
    let server = Server::control(test.control_server());
    let credentials = test.credentials("ns/prod/edge/aws-hk");
    let mut edge = Edge::start(vec![server.address()], test.client(&credentials), None);
    test.deny(&credentials);
    // The edge's handshake finishes before the controller verifies it, so there may be a short session.
    assert!(server.connection().await.is_err());
    loop {
        match edge.event().await {
            Event::Connected { .. } => {}
            Event::Disconnected(SessionError::CertificateRefused(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_ends_when_the_sender_of_its_commands_is_dropped() {
    let (server, edge) = SessionTest::new().start();
    let peer = server.edge().await;
    let Edge { commands, .. } = edge;
    drop(commands);
    assert_eq!(CloseCode::of(&peer.closed().await), Some(CloseCode::Done));
}

/// The controller that the edge connects to, by its index.
async fn first_session(servers: &[Server; 2]) -> (usize, Peer) {
    tokio::select! {
        peer = servers[0].edge() => (0, peer),
        peer = servers[1].edge() => (1, peer),
    }
}

fn report(rtt_us: u32) -> Report {
    let peer = "idc".parse().unwrap();
    let link = LinkReport { peer, up: true, rtt_us, path_mtu: 1452, since_unix: 1 };
    Report { links: vec![link], cert_not_after: 9, applied: None }
}

#[tokio::test]
async fn a_session_ends_when_its_controllers_root_is_removed() {
    let mut test = SessionTest::new();
    let old = Server::control(test.control_server());
    let client = test.edge();
    let mut edge = Edge::start(vec![old.address()], client.clone(), None);
    let _peer = old.edge().await;
    edge.connected().await;

    let trust = test.rotate_root();
    edge.command(Command::Recheck(trust.clone())).await;
    let new = Server::control(test.control_server());
    edge.command(Command::Client(Client::new(vec![new.address()], client))).await;
    test.drop_old_root();
    edge.command(Command::Recheck(trust)).await;
    let error = edge.disconnected().await;
    assert!(matches!(error, SessionError::Untrusted(Refusal::RootRemoved)), "{error}");
    edge.stop().await;
}
