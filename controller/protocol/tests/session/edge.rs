//! An edge's session with controllers that behave.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Instant,
};

use cframe_protocol::{
    frame::encode,
    session::{Client, CloseCode, Command, Event, SessionError},
    v1::{
        Ack, CallError, Desired, Endpoint, ErrorCode, FromEdge, Goodbye, GoodbyeReason, LinkReport,
        Ping, Pong, RenewNow, RenewReply, RenewRequest, Report,
    },
};

use crate::{
    server::{Edge, Server, soon, update, version},
    world::World,
};

#[tokio::test]
async fn an_edge_gets_a_snapshot_then_a_delta_and_acknowledges_both() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let mut edge = Edge::start(vec![server.address()], world.edge(), None);

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
async fn a_controller_that_vanishes_is_replaced_by_the_one_at_the_other_address() {
    let world = World::new("m");
    let servers = [0, 1].map(|_| Server::control(world.control_server()));
    let addresses = servers.iter().map(Server::address).collect();
    let mut edge = Edge::start(addresses, world.edge(), None);

    let (first, mut peer) = tokio::select! {
        peer = servers[0].edge() => (0, peer),
        peer = servers[1].edge() => (1, peer),
    };
    edge.connected().await;
    peer.send(&update(None, 1, &["10.1.0.0/16"], true)).await;
    edge.desired().await;
    // It moves to another port, where nobody looks for it: not a word of farewell.
    servers[first].0.rebind(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();

    let error = edge.disconnected().await;
    assert!(matches!(error, SessionError::Silent), "{error}");
    let mut peer = servers[1 - first].edge().await;
    assert_eq!(peer.hello.have, Some(version(1)), "it goes on from what it has");
    edge.connected().await;
    peer.send(&update(Some(1), 2, &["10.2.0.0/16"], true)).await;
    assert_eq!(edge.desired().await.prefixes.len(), 2);
    edge.stop().await;
}

#[tokio::test]
async fn a_controller_that_stops_is_left_for_another_at_once() {
    let world = World::new("m");
    let servers = [0, 1].map(|_| Server::control(world.control_server()));
    let addresses = servers.iter().map(Server::address).collect();
    let mut edge = Edge::start(addresses, world.edge(), None);
    let (first, mut peer) = tokio::select! {
        peer = servers[0].edge() => (0, peer),
        peer = servers[1].edge() => (1, peer),
    };
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
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let mut edge = Edge::start(vec![server.address()], world.edge(), None);
    for (reason, code) in [
        (GoodbyeReason::Removed, CloseCode::Removed),
        (GoodbyeReason::Revoked, CloseCode::Revoked),
        (GoodbyeReason::Replaced, CloseCode::Done),
    ] {
        let mut peer = server.edge().await;
        edge.connected().await;
        peer.send(&Goodbye { reason }).await;
        // As a controller does it: the stream ends, and the connection once that has arrived.
        peer.writer.finish();
        peer.writer.delivered().await;
        assert!(matches!(edge.event().await, Event::Goodbye(told) if told == reason));
        let error = edge.disconnected().await;
        assert!(matches!(error, SessionError::Closed(found) if found == code), "{error}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_pings_more_often_than_every_two_seconds_with_and_without_answers() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let mut edge = Edge::start(vec![server.address()], world.edge(), None);
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
    assert!((2.5..4.0).contains(&between.as_secs_f64()), "{between:?}");
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_goes_on_from_the_state_on_its_disk() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let have = Desired { version: version(5), ..Desired::default() };
    let mut edge = Edge::start(vec![server.address()], world.edge(), Some(have));
    let mut peer = server.edge().await;
    assert_eq!(peer.hello.have, Some(version(5)));
    edge.connected().await;
    peer.send(&update(Some(5), 6, &["10.1.0.0/16"], true)).await;
    assert_eq!(edge.desired().await.version, version(6));
    edge.stop().await;
}

#[tokio::test]
async fn names_are_resolved_and_addresses_that_lead_nowhere_are_passed_over() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let by_name = format!("localhost:{}", server.address().port()).parse().unwrap();
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = nobody.local_addr().unwrap().into();
    let unknown: Endpoint = "no-such-host.invalid:58422".parse().unwrap();
    let mut edge = Edge::start(vec![unknown, silent, by_name], world.edge(), None);
    server.edge().await;
    edge.connected().await;
    edge.stop().await;
}

#[tokio::test]
async fn pings_are_answered_with_what_is_applied() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let mut edge = Edge::start(vec![server.address()], world.edge(), None);
    let mut peer = server.edge().await;
    edge.connected().await;
    peer.send(&Ping { nonce: 11, version: Some(version(9)) }).await;
    assert_eq!(peer.next().await, FromEdge::Pong(Pong { nonce: 11, version: None }));
    peer.send(&update(None, 9, &[], true)).await;
    edge.desired().await;
    peer.send(&Ping { nonce: 12, version: None }).await;
    let pong = FromEdge::Pong(Pong { nonce: 12, version: None });
    assert_eq!(peer.next().await, pong, "what is not applied doesn't count");
    edge.command(Command::Ack(version(9))).await;
    assert!(matches!(peer.next().await, FromEdge::Ack(_)));
    peer.send(&Ping { nonce: 13, version: None }).await;
    assert_eq!(peer.next().await, FromEdge::Pong(Pong { nonce: 13, version: Some(version(9)) }));
    edge.stop().await;
}

#[tokio::test]
async fn an_idle_edge_pings_and_a_session_of_pongs_lasts() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let mut edge = Edge::start(vec![server.address()], world.edge(), None);
    let mut peer = server.edge().await;
    edge.connected().await;
    // Ten pings are seven seconds: more than a silent peer is given.
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
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let mut edge = Edge::start(vec![server.address()], world.edge(), None);
    let (_connection, mut send, _reader) = server.raw().await;
    edge.connected().await;
    let unknown = [&8u32.to_be_bytes()[..], &999u16.to_be_bytes(), b"future"].concat();
    let known = encode(&update(None, 1, &[], true)).unwrap();
    send.write_all(&[&unknown, &known[..], &unknown].concat()).await.unwrap();
    assert_eq!(edge.desired().await.version, version(1));
    edge.stop().await;
}

#[tokio::test]
async fn renewal_is_asked_for_answered_and_refused() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let mut edge = Edge::start(vec![server.address()], world.edge(), None);
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
async fn without_a_controller_renewal_fails_at_once_and_the_last_report_is_kept() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let mut edge = Edge::start(Vec::new(), world.edge(), None);
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
    let client = Client::new(vec![server.address()], world.edge());
    edge.command(Command::Client(client)).await;
    let mut peer = server.edge().await;
    assert_eq!(peer.next().await, FromEdge::Report(report(2)));
    edge.stop().await;
}

#[tokio::test]
async fn a_reader_that_is_slow_finds_the_newest_state() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let mut edge = Edge::start(vec![server.address()], world.edge(), None);
    let mut peer = server.edge().await;
    edge.connected().await;
    peer.send(&update(None, 1, &[], true)).await;
    for n in 1..200 {
        peer.send(&update(Some(n), n + 1, &[], true)).await;
    }
    // The edge has read all when it answers this; nobody has read its events.
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
async fn who_is_no_controller_of_the_mesh_is_not_talked_to() {
    let world = World::new("m");
    let other = World::new("m");
    for tls in [
        other.control_server(),
        world.control_server_as("ns/prod/edge/idc"),
        world.control_server_as("admin/alice"),
    ] {
        let server = Server::control(tls);
        let mut edge = Edge::start(vec![server.address()], world.edge(), None);
        assert!(server.connection().await.is_err());
        let error = edge.disconnected().await;
        assert!(matches!(error, SessionError::Unreachable(_)), "{error}");
        edge.stop().await;
    }
}

#[tokio::test]
async fn an_edge_is_told_that_its_certificate_is_refused() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let credentials = world.credentials("ns/prod/edge/aws-hk");
    let mut edge = Edge::start(vec![server.address()], world.client(&credentials), None);
    world.deny(&credentials);
    // The edge's own handshake is done when the controller judges: it may see a session for a moment.
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
async fn an_edge_ends_when_nobody_holds_its_commands() {
    let world = World::new("m");
    let server = Server::control(world.control_server());
    let edge = Edge::start(vec![server.address()], world.edge(), None);
    let peer = server.edge().await;
    let Edge { commands, .. } = edge;
    drop(commands);
    assert_eq!(CloseCode::of(&peer.closed().await), Some(CloseCode::Done));
}

fn report(rtt_us: u32) -> Report {
    let peer = "idc".parse().unwrap();
    let link = LinkReport { peer, up: true, rtt_us, path_mtu: 1452, since_unix: 1 };
    Report { links: vec![link], cert_not_after: 9, applied: None }
}
