//! Floods of handshakes from strangers.

use std::time::Duration;

use crate::{SECOND, network::LinkNetwork};

#[test]
fn a_flood_from_spoofed_sources_does_not_shut_out_a_restarted_edge() {
    let mut net = LinkNetwork::of(3, &[0, 1]);
    net.run_until(SECOND, |net| net.links_up(2) == 2).unwrap();
    let initial = captured_initial(&net);
    net.kill(2);
    let mut sources = 0_u32;
    let mut back = None;
    for millisecond in 0..4_000 {
        for _ in 0..40 {
            sources += 1;
            let mut forged = initial.clone();
            forged[6..10].copy_from_slice(&sources.to_be_bytes());
            let source = std::net::Ipv4Addr::from(0x0700_0000 + sources);
            net.inject(0, &format!("{source}:4433"), forged);
        }
        if millisecond == 1_000 {
            net.restart(2, &[0, 1]);
        }
        net.run_for(Duration::from_millis(1));
        net.wire.captured.clear();
        if millisecond > 1_000 && net.links_up(2) == 2 {
            back = Some(millisecond - 1_000);
            break;
        }
    }
    assert!(back.is_some_and(|back| back < 1_000), "{back:?} ms");
}

#[test]
fn a_handshake_flood_does_not_disturb_traffic() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.run_for(SECOND);
    net.edges[1].delivered.clear();
    let initial = captured_initial(&net);
    for round in 0..200_u32 {
        for source in 0..20_u32 {
            let mut forged = initial.clone();
            // A different connection id each, so that each is a new connection.
            forged[6..10].copy_from_slice(&(round * 20 + source).to_be_bytes());
            net.inject(1, &format!("192.0.2.{source}:4433"), forged);
        }
        net.send(0, 1, 100);
        net.run_for(Duration::from_millis(10));
    }
    net.run_for(SECOND);
    assert_eq!(net.edges[1].delivered.len(), 200);
}

/// The first packet of a handshake that was sent.
fn captured_initial(net: &LinkNetwork) -> Vec<u8> {
    let is_initial = |d: &&Vec<u8>| d[0] & 0xf0 == 0xc0 && d.len() >= 1200;
    net.wire.captured.iter().find(is_initial).unwrap().clone()
}
