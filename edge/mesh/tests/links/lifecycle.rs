//! Links come up, and come back after edges were killed, moved, or cut off.

use std::time::Duration;

use cframe_mesh::Event;

use crate::{SECOND, network::LinkNetwork, wire::LATENCY};

#[test]
fn a_mesh_of_three_comes_up_within_a_few_round_trips() {
    let mut net = LinkNetwork::of(3, &[0, 1, 2]);
    let took = net.run_until(SECOND, |net| (0..3).all(|edge| net.links_up(edge) == 2)).unwrap();
    assert!(took <= 6 * LATENCY, "{took:?}");
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        assert!(net.time_to_traffic(from, to, SECOND).unwrap() <= 2 * LATENCY);
    }
}

#[test]
fn an_edge_without_endpoint_dials_and_is_reached() {
    let mut net = LinkNetwork::of(2, &[1]);
    net.run_until(SECOND, |net| net.links_up(0) == 1 && net.links_up(1) == 1).unwrap();
    assert!(net.time_to_traffic(1, 0, SECOND).is_some());
}

#[test]
fn simultaneous_dials_end_in_one_link_that_both_sides_agree_on() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.run_for(3 * SECOND);
    let dialed: Vec<_> = (0..2)
        .map(|edge| {
            let links: Vec<_> = net.mesh(edge).links().collect();
            assert!(links[0].up);
            links[0].dialed
        })
        .collect();
    assert_ne!(dialed[0], dialed[1], "one end dialled the link in use, the other accepted it");
    let downs = |net: &LinkNetwork, edge: usize| {
        net.edges[edge].events.iter().filter(|e| matches!(e, Event::LinkDown { .. })).count()
    };
    assert_eq!((downs(&net, 0), downs(&net, 1)), (0, 0));
}

#[test]
fn a_killed_edge_has_traffic_within_a_second_of_its_start_as_dialler_and_as_acceptor() {
    // Only `b` listens: `a` is the dialler, `b` the acceptor.
    for (killed, other) in [(0, 1), (1, 0)] {
        let mut net = LinkNetwork::of(2, &[1]);
        net.time_to_traffic(0, 1, SECOND).unwrap();
        net.kill(killed);
        // The other edge keeps sending and does not notice yet.
        for _ in 0..30 {
            net.send(other, killed, 100);
            net.run_for(Duration::from_millis(100));
        }
        net.restart(killed, &[1]);
        let took = net.time_to_traffic(other, killed, 5 * SECOND).unwrap();
        assert!(took < SECOND, "killed {killed}: {took:?}");
    }
}

#[test]
fn an_edge_that_was_away_for_a_minute_is_back_within_a_second_of_its_start() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.kill(1);
    net.run_for(60 * SECOND);
    assert_eq!(net.links_up(0), 0, "silence was noticed");
    net.restart(1, &[0, 1]);
    let took = net.time_to_traffic(0, 1, 5 * SECOND).unwrap();
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn an_edge_that_comes_back_is_not_delayed_by_crossing_dials() {
    // At any moment of its peer's backoff.
    for (offset, known) in (0..100).flat_map(|offset| [(offset, &[0, 1][..]), (offset, &[1])]) {
        let mut net = LinkNetwork::of(2, known);
        net.time_to_traffic(0, 1, SECOND).unwrap();
        net.kill(1);
        net.run_for(15 * SECOND + Duration::from_millis(41 * offset));
        net.restart(1, &[0, 1]);
        let took = net.time_to_traffic(0, 1, 5 * SECOND).unwrap();
        assert!(took <= 10 * LATENCY, "{offset}: {took:?}");
    }
}

#[test]
fn a_link_that_a_restart_ended_soon_is_replaced_at_once() {
    let mut net = LinkNetwork::of(2, &[1]);
    for _ in 0..10 {
        net.time_to_traffic(0, 1, SECOND).unwrap();
        net.kill(1);
        net.run_for(Duration::from_millis(300));
        net.restart(1, &[1]);
        let took = net.time_to_traffic(0, 1, 5 * SECOND).unwrap();
        assert!(took <= 15 * LATENCY, "{took:?}");
    }
}

#[test]
fn a_moved_edge_has_traffic_within_a_second_as_dialler_and_as_acceptor() {
    for (moved, other) in [(0, 1), (1, 0)] {
        let mut net = LinkNetwork::of(2, &[1]);
        net.time_to_traffic(0, 1, SECOND).unwrap();
        net.run_for(2 * SECOND);
        net.move_to(moved, "198.51.100.77:58423");
        let out = net.time_to_traffic(moved, other, 5 * SECOND).unwrap();
        let back = net.time_to_traffic(other, moved, 5 * SECOND).unwrap();
        assert!(out < SECOND && back < SECOND, "moved {moved}: {out:?}, {back:?}");
    }
}

#[test]
fn a_link_over_a_long_path_is_not_dialled_again_and_again() {
    for latency in [10, 75, 150] {
        let mut net = LinkNetwork::of(2, &[0, 1]);
        net.wire.latency = Duration::from_millis(latency);
        net.run_for(20 * SECOND);
        for edge in &net.edges {
            let ups = edge.events.iter().filter(|e| matches!(e, Event::LinkUp { .. })).count();
            assert!((1..=2).contains(&ups), "{latency} ms: {:?}", edge.events);
        }
    }
}

#[test]
fn an_outage_is_noticed_within_ten_seconds_and_over_within_five() {
    // The link is idle, and its last keep-alive was just now, or long ago.
    for idle in [0, 5000, 5700, 6400, 7100] {
        let mut net = LinkNetwork::of(2, &[0, 1]);
        net.time_to_traffic(0, 1, SECOND).unwrap();
        net.run_for(Duration::from_millis(idle));
        net.cut_off(1);
        let noticed = net.run_until(20 * SECOND, |net| net.links_up(0) == 0).unwrap();
        assert!(noticed <= 10 * SECOND, "{noticed:?} after {idle} ms");
        net.run_for(30 * SECOND);
        net.wire.cut_off.clear();
        let back = net.time_to_traffic(0, 1, 10 * SECOND).unwrap();
        assert!(back <= 5 * SECOND, "{back:?}");
    }
}

#[test]
fn a_clean_shutdown_closes_the_links_at_the_peers() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    let now = net.now;
    net.mesh(0).shutdown(now);
    let noticed = net.run_until(SECOND, |net| net.links_up(1) == 0).unwrap();
    assert!(noticed <= 2 * LATENCY, "{noticed:?}");
    net.run_for(10 * SECOND);
    assert_eq!(net.links_up(0), 0, "a stopped edge stays stopped");
}
