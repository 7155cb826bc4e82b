//! Peers and packets that must be refused, and what an observer of the wire can see.

use std::time::Duration;

use cframe_mesh::{Event, Reason};
use cframe_pki::bundle::{DenyEntry, DenyList};

use crate::{
    SECOND,
    network::{LinkNetwork, addr, ping},
    wire::LATENCY,
};

#[test]
fn forged_sources_and_foreign_destinations_are_dropped_and_counted() {
    let mut net = LinkNetwork::of(3, &[0, 1, 2]);
    net.run_until(SECOND, |net| (0..3).all(|edge| net.links_up(edge) == 2)).unwrap();
    // An attacker controls `a`, which claims that `c`'s prefix is its own.
    let name = net.edges[0].name.clone();
    net.mesh(0).set_prefix("10.2.0.0/16".parse().unwrap(), &name);
    net.send_raw(0, &ping(addr(2, 9), addr(1, 1), 100));
    net.run_for(SECOND);
    assert_eq!(net.mesh(1).counters().dropped_for(Reason::PeerForgedSource), 1);
    // It also claims that other networks are reached through `b`.
    let b = net.edges[1].name.clone();
    for (prefix, target) in [("172.17.0.0/16", "172.17.0.1"), ("10.2.0.0/16", "10.2.0.1")] {
        net.mesh(0).set_prefix(prefix.parse().unwrap(), &b);
        net.send_raw(0, &ping(addr(0, 1), target.parse::<std::net::Ipv4Addr>().unwrap(), 100));
    }
    net.run_for(SECOND);
    assert_eq!(net.mesh(1).counters().dropped_for(Reason::PeerForeignDestination), 2);
    assert!(net.edges[1].delivered.is_empty() && net.edges[2].delivered.is_empty());
}

#[test]
fn a_removed_peer_is_cut_off_at_once_and_does_not_come_back() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    let (now, b) = (net.now, net.edges[1].name.clone());
    net.mesh(0).remove_peer(now, &b);
    assert_eq!(net.links_up(0), 0);
    let noticed = net.run_until(SECOND, |net| net.links_up(1) == 0).unwrap();
    assert!(noticed <= 2 * LATENCY, "{noticed:?}");
    net.run_for(30 * SECOND);
    assert_eq!((net.links_up(0), net.links_up(1)), (0, 0));
    assert!(net.mesh(0).counters().dropped_for(Reason::HandshakeRefused) > 0);
}

#[test]
fn a_revoked_certificate_closes_its_link_and_no_restart_brings_it_back() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    revoke(&mut net, 0, 1);
    assert_eq!(net.links_up(0), 0);
    net.kill(1);
    net.restart(1, &[0, 1]);
    net.run_for(20 * SECOND);
    assert_eq!((net.links_up(0), net.links_up(1)), (0, 0));
    assert!(net.mesh(0).counters().dropped_for(Reason::HandshakeRefused) > 0);
    let refusals = net.edges[0].refusals.lock().unwrap();
    assert!(refusals.iter().all(|reason| reason.contains("revoked")), "{refusals:?}");
}

#[test]
fn a_revocation_in_the_middle_of_a_handshake_is_not_too_late() {
    // TLS verifies the certificate before the last flight, which an attacker may delay. Which
    // datagram that is depends on sizes, so several positions and names are tried.
    let mut cut_in_time = 0;
    for (cut, pad) in (1..6).flat_map(|cut| [0, 20, 40].map(|pad| (cut, pad))) {
        let mut net = LinkNetwork::of(1, &[0]);
        net.add(&format!("b{}", "x".repeat(pad)), "prod", 3600 * SECOND);
        net.wire.hold = Some((net.edges[1].address, cut));
        net.introduce(0, &[0]);
        net.introduce(1, &[0]);
        net.run_for(SECOND / 2);
        if net.links_up(0) == 1 {
            continue;
        }
        cut_in_time += 1;
        revoke(&mut net, 0, 1);
        net.wire.release_held(net.now);
        net.run_for(3 * SECOND);
        assert_eq!(net.links_up(0), 0, "after {cut} datagrams, name of {} letters", pad + 1);
    }
    assert!(cut_in_time > 5, "{cut_in_time}");
}

#[test]
fn a_recheck_does_not_delay_the_handshake_of_an_allowed_peer() {
    let mut net = LinkNetwork::of(2, &[1]);
    net.run_for(LATENCY * 3 / 2);
    assert_eq!(net.links_up(0), 0, "the handshake is under way");
    let now = net.now;
    net.mesh(0).recheck(now, &mut |_| true);
    let took = net.run_until(SECOND, |net| net.links_up(0) == 1).unwrap();
    assert!(took <= 6 * LATENCY, "{took:?}");
}

#[test]
fn an_edge_of_another_namespace_is_refused_by_name() {
    let mut net = LinkNetwork::of(1, &[0]);
    net.add("b", "dev", Duration::from_secs(3600));
    net.introduce(0, &[0, 1]);
    net.introduce(1, &[0, 1]);
    net.run_for(5 * SECOND);
    assert_eq!((net.links_up(0), net.links_up(1)), (0, 0));
    let refusals = net.edges[0].refusals.lock().unwrap();
    assert!(refusals.iter().any(|reason| reason.contains("namespace")), "{refusals:?}");
}

#[test]
fn a_link_ends_with_its_certificate() {
    let mut net = LinkNetwork::of(1, &[0]);
    net.add("b", "prod", Duration::from_secs(20));
    net.introduce(0, &[0, 1]);
    net.introduce(1, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.run_for(15 * SECOND);
    assert_eq!(net.links_up(0), 1);
    // TLS reads the real clock, by which the certificate is still valid, so a new link would be
    // accepted. The test is about the existing one.
    net.cut_off(1);
    net.run_for(8 * SECOND);
    assert_eq!(net.links_up(0), 0);
    assert!(
        net.edges[0].events.iter().any(|event| {
            matches!(event, Event::LinkDown { reason, .. } if reason.contains("expired"))
        }),
        "{:?}",
        net.edges[0].events
    );
}

#[test]
fn no_part_of_an_inner_packet_and_no_name_is_readable_on_the_wire() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    let canary = b"canary-of-an-inner-payload";
    net.time_to_traffic(0, 1, SECOND).unwrap();
    let mut packet = ping(addr(0, 1), addr(1, 1), 200);
    packet[40..40 + canary.len()].copy_from_slice(canary);
    net.send_raw(0, &packet);
    net.run_for(SECOND);
    assert!(net.edges[1].delivered.iter().any(|p| p.windows(canary.len()).any(|w| w == canary)));
    for needle in [&canary[..], &addr(0, 1).octets(), b"spiffe", b"edge"] {
        let seen = net.wire.captured.iter().any(|d| d.windows(needle.len()).any(|w| w == needle));
        assert!(!seen, "{:?} is readable", String::from_utf8_lossy(needle));
    }
}

/// Revokes the certificate of `whom` at edge `at`.
fn revoke(net: &mut LinkNetwork, at: usize, whom: usize) {
    let revoked = net.edges[whom].identity();
    let mut deny = DenyList::default();
    deny.insert(DenyEntry {
        id: revoked.id.clone(),
        serial: revoked.serial,
        spki: revoked.spki,
        expires: revoked.not_after,
    });
    let trust = net.edges[at].trust.clone();
    trust.replace(trust.bundle(), deny).unwrap();
    let now = net.now;
    net.mesh(at).recheck(now, &mut |peer| trust.denial(peer).is_ok());
}
