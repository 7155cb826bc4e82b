//! Links between cores in virtual time: what happens to them when edges die, move and are refused,
//! and to the packets on them.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

use cframe_mesh::{Event, Reason};
use cframe_pki::bundle::{DenyEntry, DenyList};

mod certificates;
mod roots;
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
fn an_edge_that_comes_back_is_not_held_up_by_crossing_dials() {
    // Whatever the moment in its peer's back-off.
    for (offset, known) in (0..100).flat_map(|offset| [(offset, &[0, 1][..]), (offset, &[1])]) {
        let mut world = World::mesh_of(2, known);
        world.time_to_traffic(0, 1, SECOND).unwrap();
        world.kill(1);
        world.run(15 * SECOND + Duration::from_millis(41 * offset));
        world.restart(1, &[0, 1]);
        let took = world.time_to_traffic(0, 1, 5 * SECOND).unwrap();
        assert!(took <= 10 * LATENCY, "{offset}: {took:?}");
    }
}

#[test]
fn a_short_lived_link_to_a_restarted_edge_is_made_again_at_once() {
    let mut world = World::mesh_of(2, &[1]);
    for _ in 0..10 {
        world.time_to_traffic(0, 1, SECOND).unwrap();
        world.kill(1);
        world.run(Duration::from_millis(300));
        world.restart(1, &[1]);
        let took = world.time_to_traffic(0, 1, 5 * SECOND).unwrap();
        assert!(took <= 15 * LATENCY, "{took:?}");
    }
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
fn a_long_path_is_not_dialled_again_and_again() {
    for latency in [10, 75, 150] {
        let mut world = World::mesh_of(2, &[0, 1]);
        world.latency = Duration::from_millis(latency);
        world.run(20 * SECOND);
        for node in &world.nodes {
            let ups = node.events.iter().filter(|e| matches!(e, Event::LinkUp { .. })).count();
            assert!((1..=2).contains(&ups), "{latency} ms: {:?}", node.events);
        }
    }
}

#[test]
fn an_outage_is_noticed_within_ten_seconds_and_over_within_five() {
    // The link is idle, and its last keep-alive was just now, or long ago.
    for idle in [0, 5000, 5700, 6400, 7100] {
        let mut world = World::mesh_of(2, &[0, 1]);
        world.time_to_traffic(0, 1, SECOND).unwrap();
        world.run(Duration::from_millis(idle));
        let b = world.nodes[1].address;
        world.dark.insert(b);
        let noticed = world.until(20 * SECOND, |world| world.links_up(0) == 0).unwrap();
        assert!(noticed <= 10 * SECOND, "{noticed:?} after {idle} ms");
        world.run(30 * SECOND);
        world.dark.clear();
        let back = world.time_to_traffic(0, 1, 10 * SECOND).unwrap();
        assert!(back <= 5 * SECOND, "{back:?}");
    }
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
    world
        .until(60 * SECOND, |world| {
            world.nodes[0].mesh.as_ref().unwrap().links().next().unwrap().path_mtu >= 1452
        })
        .unwrap();
}

#[test]
fn a_steady_stream_of_large_packets_alone_notices_that_the_path_shrank() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(3 * SECOND);
    world.mtu = 1272;
    // No pause is as long as a probe time-out (RFC 9002 §6.2), which every packet puts off.
    let before = world.nodes[1].delivered.len();
    let mut sent = 0;
    while world.nodes[1].delivered.len() == before {
        assert!(sent < 300, "the black hole was not noticed in 3 s");
        world.send(0, 1, 1400);
        world.run(Duration::from_millis(10));
        sent += 1;
    }
    assert_eq!(world.links_up(0), 1);
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
fn a_flow_in_one_direction_leaves_nothing_in_flight_at_its_receiver() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world
        .until(Duration::from_secs(5), |world| world.links_up(0) + world.links_up(1) == 2)
        .unwrap();
    world.run(Duration::from_secs(5));
    // Each is acknowledged by itself. Acknowledgements get one of their own only beside data, or when
    // the receiver asks; whichever it is, they must not add up.
    let whole = world.mesh(0).links().next().unwrap().largest_inner;
    for _ in 0..3000 {
        world.send(0, 1, whole);
        world.run(Duration::from_millis(40));
        assert!(world.mesh(1).load().in_flight < 60_000);
    }
    assert!(world.nodes[1].delivered.len() >= 2999);
    world.run(Duration::from_secs(1));
    assert!(world.time_to_traffic(1, 0, Duration::from_millis(100)).is_some());
}

#[test]
fn a_full_direction_does_not_starve_the_acknowledgements_of_the_other() {
    let delivered = [false, true].map(|both| {
        let mut world = World::mesh_of(2, &[0, 1]);
        world.latency = Duration::from_millis(100);
        world.run(5 * SECOND);
        let mut delivered = 0;
        for _ in 0..300 {
            for _ in 0..1500 {
                world.send(0, 1, 1400);
                if both {
                    world.send(1, 0, 1400);
                }
            }
            world.run(Duration::from_millis(10));
            delivered += world.nodes[1].delivered.len();
            world.nodes.iter_mut().for_each(|node| node.delivered.clear());
            world.captured.clear();
        }
        delivered
    });
    let [alone, both] = delivered;
    assert!(both * 10 > alone * 8, "alone {alone}, with the other direction full {both}");
}

#[test]
fn batches_of_jumbo_packets_fit_into_one_udp_payload() {
    let mut world = World::new();
    world.underlay_mtu = 9001;
    world.mtu = 8973;
    world.add("a", "prod", 3600 * SECOND);
    world.add("b", "prod", 3600 * SECOND);
    world.acquaint(0, &[0, 1]);
    world.acquaint(1, &[0, 1]);
    world.run(10 * SECOND);
    assert_eq!(world.mesh(0).links().next().unwrap().path_mtu, 1538, "what the TUN needs, no more");
    for _ in 0..200 {
        world.send(0, 1, 1400);
    }
    world.run(SECOND);
    assert_eq!(world.nodes[1].delivered.len(), 200);
    assert!(world.largest_batch <= 65_507, "{}", world.largest_batch);
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
    revoke(&mut world, 0, 1);
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
fn a_revocation_in_the_middle_of_a_handshake_is_not_too_late() {
    // TLS judges the certificate before the last flight, which a thief may hold back. Where the
    // datagrams are cut depends on sizes, so several cuts and names are tried.
    let mut cut_in_time = 0;
    for (cut, pad) in (1..6).flat_map(|cut| [0, 20, 40].map(|pad| (cut, pad))) {
        let mut world = World::mesh_of(1, &[0]);
        world.add(&format!("b{}", "x".repeat(pad)), "prod", 3600 * SECOND);
        world.hold = Some((world.nodes[1].address, cut));
        world.acquaint(0, &[0]);
        world.acquaint(1, &[0]);
        world.run(SECOND / 2);
        if world.links_up(0) == 1 {
            continue;
        }
        cut_in_time += 1;
        revoke(&mut world, 0, 1);
        world.release();
        world.run(3 * SECOND);
        assert_eq!(world.links_up(0), 0, "after {cut} datagrams, name of {} letters", pad + 1);
    }
    assert!(cut_in_time > 5, "{cut_in_time}");
}

#[test]
fn a_recheck_holds_up_no_handshake_of_somebody_who_is_allowed() {
    let mut world = World::mesh_of(2, &[1]);
    world.run(LATENCY * 3 / 2);
    assert_eq!(world.links_up(0), 0, "the handshake is under way");
    let now = world.now;
    world.mesh(0).recheck(now, &mut |_| true);
    let took = world.until(SECOND, |world| world.links_up(0) == 1).unwrap();
    assert!(took <= 6 * LATENCY, "{took:?}");
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
    assert!(
        world.nodes[0].events.iter().any(|event| {
            matches!(event, Event::LinkDown { reason, .. } if reason.contains("expired"))
        }),
        "{:?}",
        world.nodes[0].events
    );
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
fn a_flood_from_spoofed_sources_does_not_shut_out_a_restarted_edge() {
    let mut world = World::mesh_of(3, &[0, 1]);
    world.until(SECOND, |world| world.links_up(2) == 2).unwrap();
    let initial = initial(&world);
    world.kill(2);
    let mut sources = 0_u32;
    let mut back = None;
    for millisecond in 0..4_000 {
        for _ in 0..40 {
            sources += 1;
            let mut forged = initial.clone();
            forged[6..10].copy_from_slice(&sources.to_be_bytes());
            let source = std::net::Ipv4Addr::from(0x0700_0000 + sources);
            world.inject(0, &format!("{source}:4433"), forged);
        }
        if millisecond == 1_000 {
            world.restart(2, &[0, 1]);
        }
        world.run(Duration::from_millis(1));
        world.captured.clear();
        if millisecond > 1_000 && world.links_up(2) == 2 {
            back = Some(millisecond - 1_000);
            break;
        }
    }
    assert!(back.is_some_and(|back| back < 1_000), "{back:?} ms");
}

#[test]
fn a_handshake_flood_leaves_the_traffic_alone() {
    let mut world = World::mesh_of(2, &[0, 1]);
    world.time_to_traffic(0, 1, SECOND).unwrap();
    world.run(SECOND);
    world.nodes[1].delivered.clear();
    let initial = initial(&world);
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

/// Edge `at` learns that the certificate of `whom` is revoked.
fn revoke(world: &mut World, at: usize, whom: usize) {
    let revoked = world.nodes[whom].identity();
    let mut deny = DenyList::default();
    deny.insert(DenyEntry {
        id: revoked.id.clone(),
        serial: revoked.serial,
        spki: revoked.spki,
        expires: revoked.not_after,
    });
    let trust = world.nodes[at].trust.clone();
    trust.replace(trust.bundle(), deny).unwrap();
    let now = world.now;
    world.mesh(at).recheck(now, &mut |peer| trust.denial(peer).is_ok());
}

/// The first packet of a handshake that was on the wire.
fn initial(world: &World) -> Vec<u8> {
    let is_initial = |d: &&Vec<u8>| d[0] & 0xf0 == 0xc0 && d.len() >= 1200;
    world.captured.iter().find(is_initial).unwrap().clone()
}
