//! Links between cores in virtual time: what happens to them when edges die, move and are refused,
//! and to the packets on them.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use cframe_mesh::{Event, Reason};
use cframe_pki::bundle::{DenyEntry, DenyList};

mod world;

use world::{LATENCY, World, addr, ping};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_mesh_of_three_comes_up_within_a_few_round_trips() {
    let mut world = World::mesh_of(3, &[0, 1, 2]);
    let took = world.until(SECOND, |world| (0..3).all(|edge| world.links_up(edge) == 2)).unwrap();
    assert!(took <= 6 * LATENCY, "{took:?}");
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        assert!(world.time_to_traffic(from, to, SECOND).unwrap() <= 2 * LATENCY);
    }
}

#[test]
fn an_edge_without_endpoint_dials_and_is_reached() {
    let mut world = World::mesh_of(2, &[1]);
    world.until(SECOND, |world| world.links_up(0) == 1 && world.links_up(1) == 1).unwrap();
    assert!(world.time_to_traffic(1, 0, SECOND).is_some());
}

#[test]
fn simultaneous_dials_end_in_one_link_that_both_sides_agree_on() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.run(3 * SECOND);
    let dialed: Vec<_> = (0..2)
        .map(|edge| {
            let links: Vec<_> = world.mesh(edge).links().collect();
            assert!(links[0].up);
            links[0].dialed
        })
        .collect();
    assert_ne!(dialed[0], dialed[1], "one end dialled the link in use, the other accepted it");
    let downs = |world: &World, edge: usize| {
        world.nodes[edge].events.iter().filter(|e| matches!(e, Event::LinkDown { .. })).count()
    };
    assert_eq!((downs(&world, 0), downs(&world, 1)), (0, 0));
}

#[test]
fn a_killed_edge_has_traffic_within_a_second_of_its_start_as_dialler_and_as_acceptor() {
    // Only `b` listens: `a` is the dialler, `b` the acceptor.
    for (killed, other) in [(0, 1), (1, 0)] {
        let mut world = World::mesh_of(2, &[1]);
        world.time_to_traffic(0, 1, SECOND).unwrap();
        world.kill(killed);
        // The survivor keeps sending and does not notice yet.
        for _ in 0..30 {
            world.send(other, killed, 100);
            world.run(Duration::from_millis(100));
        }
        world.restart(killed, &[1]);
        let took = world.time_to_traffic(other, killed, 5 * SECOND).unwrap();
        assert!(took < SECOND, "killed {killed}: {took:?}");
    }
}

#[test]
fn an_edge_that_was_away_for_a_minute_is_back_within_a_second_of_its_start() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.kill(1);
    world.run(60 * SECOND);
    assert_eq!(world.links_up(0), 0, "silence was noticed");
    world.restart(1, &[0, 1]);
    let took = world.time_to_traffic(0, 1, 5 * SECOND).unwrap();
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn a_moved_edge_has_traffic_within_a_second_as_dialler_and_as_acceptor() {
    for (moved, other) in [(0, 1), (1, 0)] {
        let mut world = World::mesh_of(2, &[1]);
        world.time_to_traffic(0, 1, SECOND).unwrap();
        world.run(2 * SECOND);
        world.move_to(moved, "198.51.100.77:58423");
        let out = world.time_to_traffic(moved, other, 5 * SECOND).unwrap();
        let back = world.time_to_traffic(other, moved, 5 * SECOND).unwrap();
        assert!(out < SECOND && back < SECOND, "moved {moved}: {out:?}, {back:?}");
    }
}

#[test]
fn an_outage_is_noticed_within_ten_seconds_and_over_within_five() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    let b = world.nodes[1].address;
    world.dark.insert(b);
    let noticed = world.until(20 * SECOND, |world| world.links_up(0) == 0).unwrap();
    assert!(noticed <= 10 * SECOND, "{noticed:?}");
    world.run(30 * SECOND);
    world.dark.clear();
    let back = world.time_to_traffic(0, 1, 10 * SECOND).unwrap();
    assert!(back <= 5 * SECOND, "{back:?}");
}

#[test]
fn packets_of_every_size_arrive_right_after_the_link_comes_up() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.until(SECOND, |world| world.links_up(0) == 1 && world.links_up(1) == 1).unwrap();
    for len in (20..=1500).step_by(37).chain([1500]) {
        world.send(0, 1, len);
    }
    world.run(SECOND);
    let mut lens: Vec<_> = world.nodes[1].delivered.iter().map(Vec::len).collect();
    lens.sort_unstable();
    assert_eq!(lens, (20..=1500).step_by(37).chain([1500]).collect::<Vec<_>>());
    let counters = world.mesh(0).counters();
    assert!(counters.fragmented > 0, "the path was not yet known to carry the largest");
}

#[test]
fn the_path_mtu_is_discovered_and_its_fall_costs_no_packet_once_noticed() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(3 * SECOND);
    let mtu = |world: &mut World| world.mesh(0).links().next().unwrap().path_mtu;
    assert!(mtu(&mut world) >= 1452, "{}", mtu(&mut world));
    world.mtu = 1272;
    // A sender that retransmits with back-off, as TCP does.
    let mut gap = Duration::from_millis(200);
    let mut noticed = Duration::ZERO;
    while mtu(&mut world) > 1272 {
        world.send(0, 1, 1400);
        world.run(gap);
        noticed += gap;
        gap = (gap * 2).min(SECOND);
        assert!(noticed < 10 * SECOND, "the black hole was not noticed");
    }
    assert!(noticed <= 5 * SECOND, "{noticed:?}");
    let before = world.nodes[1].delivered.len();
    for _ in 0..200 {
        world.send(0, 1, 1500);
        world.run(Duration::from_millis(10));
    }
    world.run(SECOND);
    assert_eq!(world.nodes[1].delivered.len() - before, 200);
    world.mtu = 1472;
    world.until(60 * SECOND, |world| world.nodes[0].mesh.as_ref().unwrap().links().next().unwrap().path_mtu >= 1452).unwrap();
}

#[test]
fn a_path_that_swallows_everything_ends_in_a_bounded_amount_of_memory() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(SECOND);
    let b = world.nodes[1].address;
    world.dark.insert(b);
    world.captured.clear();
    for _ in 0..200 {
        for _ in 0..500 {
            world.send(0, 1, 1400);
        }
        world.run(Duration::from_millis(10));
    }
    let sent: usize = world.captured.iter().map(Vec::len).sum();
    assert!(sent < 17 << 20, "bytes in flight are capped, {sent} left");
    let dropped: u64 = world.mesh(0).counters().dropped().map(|(_, count)| count).sum();
    assert!(dropped > 50_000, "{dropped}");
}

#[test]
fn forged_sources_and_foreign_destinations_are_dropped_and_counted() {
    let mut world = World::mesh_of(3, &[0, 1, 2]);
    world.until(SECOND, |world| (0..3).all(|edge| world.links_up(edge) == 2)).unwrap();
    // `a` is taken over: it believes that everything is its own.
    let name = world.nodes[0].name.clone();
    world.mesh(0).set_prefix("10.2.0.0/16".parse().unwrap(), &name);
    world.send_raw(0, &ping(addr(2, 9), addr(1, 1), 100));
    world.run(SECOND);
    assert_eq!(world.mesh(1).counters().dropped_for(Reason::PeerForgedSource), 1);
    // And that `b` leads everywhere.
    let b = world.nodes[1].name.clone();
    for (prefix, target) in [("172.17.0.0/16", "172.17.0.1"), ("10.2.0.0/16", "10.2.0.1")] {
        world.mesh(0).set_prefix(prefix.parse().unwrap(), &b);
        world.send_raw(0, &ping(addr(0, 1), target.parse::<std::net::Ipv4Addr>().unwrap(), 100));
    }
    world.run(SECOND);
    assert_eq!(world.mesh(1).counters().dropped_for(Reason::PeerForeignDestination), 2);
    assert!(world.nodes[1].delivered.is_empty() && world.nodes[2].delivered.is_empty());
}

#[test]
fn a_removed_peer_is_cut_off_at_once_and_does_not_come_back() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    let (now, b) = (world.now, world.nodes[1].name.clone());
    world.mesh(0).remove_peer(now, &b);
    assert_eq!(world.links_up(0), 0);
    let told = world.until(SECOND, |world| world.links_up(1) == 0).unwrap();
    assert!(told <= 2 * LATENCY, "{told:?}");
    world.run(30 * SECOND);
    assert_eq!((world.links_up(0), world.links_up(1)), (0, 0));
    assert!(world.mesh(0).counters().dropped_for(Reason::HandshakeRefused) > 0);
}

#[test]
fn a_revoked_certificate_closes_its_link_and_no_restart_brings_it_back() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    let revoked = world.nodes[1].identity();
    let mut deny = DenyList::default();
    deny.insert(DenyEntry {
        id: revoked.id.clone(),
        serial: revoked.serial,
        spki: revoked.spki,
        expires: revoked.not_after,
    });
    let trust = world.nodes[0].trust.clone();
    trust.replace(trust.bundle(), deny).unwrap();
    let now = world.now;
    world.mesh(0).recheck(now, &mut |peer| trust.denial(peer).is_ok());
    assert_eq!(world.links_up(0), 0);
    world.kill(1);
    world.restart(1, &[0, 1]);
    world.run(20 * SECOND);
    assert_eq!((world.links_up(0), world.links_up(1)), (0, 0));
    assert!(world.mesh(0).counters().dropped_for(Reason::HandshakeRefused) > 0);
    let refusals = world.nodes[0].refusals.lock().unwrap();
    assert!(refusals.iter().all(|reason| reason.contains("revoked")), "{refusals:?}");
}

#[test]
fn an_edge_of_another_namespace_is_refused_by_name() {
    let mut world = World::mesh_of(1, &[0]);
    world.add("b", "dev", Duration::from_secs(3600));
    world.acquaint(0, &[0, 1]);
    world.acquaint(1, &[0, 1]);
    world.run(5 * SECOND);
    assert_eq!((world.links_up(0), world.links_up(1)), (0, 0));
    let refusals = world.nodes[0].refusals.lock().unwrap();
    assert!(refusals.iter().any(|reason| reason.contains("namespace")), "{refusals:?}");
}

#[test]
fn a_link_ends_with_its_certificate() {
    let mut world = World::mesh_of(1, &[0]);
    world.add("b", "prod", Duration::from_secs(20));
    world.acquaint(0, &[0, 1]);
    world.acquaint(1, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(15 * SECOND);
    assert_eq!(world.links_up(0), 1);
    // TLS reads the real clock, by which the certificate is still good; what ends here is the link
    // that stood. So nobody may make a new one.
    let b = world.nodes[1].address;
    world.dark.insert(b);
    world.run(8 * SECOND);
    assert_eq!(world.links_up(0), 0);
    assert!(world.nodes[0].events.iter().any(|event| {
        matches!(event, Event::LinkDown { reason, .. } if reason.contains("expired"))
    }), "{:?}", world.nodes[0].events);
}

#[test]
fn a_congestion_mark_outside_is_seen_inside_or_costs_the_packet() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(SECOND);
    world.nodes[1].delivered.clear();
    world.congested = true;
    world.send(0, 1, 100);
    let mut able = ping(addr(0, 1), addr(1, 1), 100);
    able[1] |= 0b10;
    let sum = u16::from_be_bytes([able[10], able[11]]);
    able[10..12].copy_from_slice(&(sum - 0b10).to_be_bytes());
    world.send_raw(0, &able);
    world.run(SECOND);
    let delivered = &world.nodes[1].delivered;
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0][1] & 0b11, 0b11);
    assert_eq!(world.mesh(1).counters().dropped_for(Reason::CongestionNotEct), 1);
}

#[test]
fn nothing_of_an_inner_packet_and_no_name_is_on_the_wire() {
    let mut world = World::mesh_of(2, &[0, 1]);
    let canary = b"canary-of-an-inner-payload";
    world.time_to_traffic(0, 1, SECOND).unwrap();
    let mut packet = ping(addr(0, 1), addr(1, 1), 200);
    packet[40..40 + canary.len()].copy_from_slice(canary);
    world.send_raw(0, &packet);
    world.run(SECOND);
    assert!(world.nodes[1].delivered.iter().any(|p| p.windows(canary.len()).any(|w| w == canary)));
    for needle in [&canary[..], &addr(0, 1).octets(), b"spiffe", b"edge"] {
        let seen = world.captured.iter().any(|d| d.windows(needle.len()).any(|w| w == needle));
        assert!(!seen, "{:?} is in the clear", String::from_utf8_lossy(needle));
    }
}

#[test]
fn a_clean_stop_tells_the_peers() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    let now = world.now;
    world.mesh(0).shutdown(now);
    let told = world.until(SECOND, |world| world.links_up(1) == 0).unwrap();
    assert!(told <= 2 * LATENCY, "{told:?}");
    world.run(10 * SECOND);
    assert_eq!(world.links_up(0), 0, "a stopped edge stays stopped");
}

#[test]
fn a_handshake_flood_leaves_the_traffic_alone() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(SECOND);
    world.nodes[1].delivered.clear();
    let initial = world.captured.iter().find(|d| d[0] & 0xf0 == 0xc0 && d.len() >= 1200).unwrap().clone();
    for round in 0..200_u32 {
        for source in 0..20_u32 {
            let mut forged = initial.clone();
            // Another connection id each, so that each asks for a new connection.
            forged[6..10].copy_from_slice(&(round * 20 + source).to_be_bytes());
            world.inject(1, &format!("192.0.2.{source}:4433"), forged);
        }
        world.send(0, 1, 100);
        world.run(Duration::from_millis(10));
    }
    world.run(SECOND);
    assert_eq!(world.nodes[1].delivered.len(), 200);
}
