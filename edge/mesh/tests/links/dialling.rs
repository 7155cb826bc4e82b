//! Why links do not come up: each fault of the path is seen as what it is, and overcome if it can be.

use std::time::Duration;

use cframe_mesh::{Attempt, Dialling, Event, LinkStatus, SendError, Side, Why};

use crate::{SECOND, network::LinkNetwork};

fn status(net: &mut LinkNetwork, edge: usize) -> LinkStatus {
    net.mesh(edge).links().next().unwrap()
}

fn attempt(net: &mut LinkNetwork, edge: usize) -> Attempt {
    status(net, edge).dialling.attempts[0].clone()
}

#[test]
fn a_peer_that_answers_nothing_is_seen_as_silent() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.cut_off(1);
    net.run_for(6 * SECOND);
    let seen = attempt(&mut net, 0);
    assert!(seen.failed >= 1 && seen.answers == 0 && seen.refusal.is_none(), "{seen:?}");
    assert!(seen.small.lost >= 2 && seen.large.lost == 0, "{seen:?}");
    assert!(!seen.is_too_narrow());
}

#[test]
fn a_path_that_carries_only_small_packets_is_seen_from_both_ends() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.wire.mtu = 1199;
    let narrow = |net: &LinkNetwork| {
        net.edges.iter().all(|edge| {
            let status = edge.mesh.as_ref().unwrap().links().next().unwrap();
            status.dialling.attempts.first().is_some_and(Attempt::is_too_narrow)
        })
    };
    let took = net.run_until(20 * SECOND, narrow).unwrap();
    assert!(took <= 6 * SECOND, "{took:?}");
    net.wire.mtu = 1472;
    let back = net.run_until(20 * SECOND, |net| net.links_up(0) == 1 && net.links_up(1) == 1);
    assert!(back.unwrap() <= 5 * SECOND);
    assert_eq!(status(&mut net, 0).dialling, Dialling::default());
}

#[test]
fn a_path_that_drops_marked_packets_is_used_without_marks_and_tried_with_them_again() {
    for listening in [&[0, 1][..], &[1]] {
        let mut net = LinkNetwork::of(2, listening);
        net.wire.drops_marked = true;
        let up = net.run_until(20 * SECOND, |net| net.links_up(0) == 1 && net.links_up(1) == 1);
        assert!(up.unwrap() <= 8 * SECOND, "{up:?}");
        assert!(net.time_to_traffic(0, 1, SECOND).is_some());
        assert!(net.time_to_traffic(1, 0, SECOND).is_some());
        net.run_for(30 * SECOND);
        assert!(net.links_up(0) == 1 && net.links_up(1) == 1, "it stays up");
        let dialler = usize::from(!status(&mut net, 0).dialed);
        assert!(status(&mut net, dialler).unmarked);
        net.wire.drops_marked = false;
        net.run_for(70 * SECOND);
        assert!(
            (0..2).all(|edge| !status(&mut net, edge).unmarked || !status(&mut net, edge).dialed)
        );
    }
}

#[test]
fn a_path_with_a_round_trip_of_seconds_gets_a_link_that_stays() {
    for (millis, listening) in [(1500, &[0, 1][..]), (2100, &[0, 1]), (2100, &[1]), (2900, &[1])] {
        let mut net = LinkNetwork::of(2, listening);
        net.wire.latency = Duration::from_millis(millis);
        let up = net.run_until(60 * SECOND, |net| net.links_up(0) == 1 && net.links_up(1) == 1);
        let up = up.unwrap_or_else(|| panic!("{millis} ms: {:?}", status(&mut net, 0)));
        assert!(up <= 40 * SECOND, "{millis} ms: {up:?}");
        net.run_for(10 * SECOND);
        let events = net.edges[0].events.len();
        net.run_for(60 * SECOND);
        assert_eq!((net.links_up(0), net.links_up(1)), (1, 1), "{millis} ms");
        assert_eq!(net.edges[0].events.len(), events, "{millis} ms: {:?}", net.edges[0].events);
    }
}

#[test]
fn a_path_that_lets_only_the_first_packet_pass_is_seen_as_answered_and_no_more() {
    let mut net = LinkNetwork::of(2, &[1]);
    // The listener's first datagram arrives, none of the others.
    net.wire.hold = Some((net.edges[1].address, 1));
    net.run_for(6 * SECOND);
    let seen = attempt(&mut net, 0);
    assert!(seen.failed >= 1, "{seen:?}");
    assert!(!seen.small.passes(), "{seen:?}");
}

#[test]
fn an_endpoint_that_leads_back_is_recognised() {
    let mut net = LinkNetwork::of(2, &[]);
    let (own, now) = (net.edges[0].address, net.now);
    let peer = net.edges[1].name.clone();
    net.mesh(0).set_peer(now, &peer, vec![own]);
    net.run_until(3 * SECOND, |net| {
        let status = net.edges[0].mesh.as_ref().unwrap().links().next().unwrap();
        status.dialling.attempts.first().is_some_and(|attempt| attempt.leads_here)
    })
    .unwrap();
}

#[test]
fn an_endpoint_of_another_edge_is_named_with_that_edge() {
    let mut net = LinkNetwork::of(3, &[]);
    let (other, now) = (net.edges[2].address, net.now);
    let peer = net.edges[1].name.clone();
    net.mesh(0).set_peer(now, &peer, vec![other]);
    net.run_for(SECOND);
    let refusal = attempt(&mut net, 0).refusal.unwrap();
    assert_eq!(refusal.by, Side::Us);
    assert_eq!(refusal.why, Why::Other("c".parse().unwrap()));
}

#[test]
fn an_error_of_the_socket_is_recorded_for_the_peers_at_that_address() {
    let mut net = LinkNetwork::of(2, &[1]);
    net.cut_off(1);
    net.run_for(SECOND);
    let remote = net.edges[1].address;
    net.mesh(0).handle_send_error(remote, SendError::NotPermitted);
    assert_eq!(attempt(&mut net, 0).send_error, Some(SendError::NotPermitted));
}

#[test]
fn probes_are_answered_within_a_budget_and_with_their_own_length() {
    let mut net = LinkNetwork::of(1, &[]);
    for count in 0..2000_u32 {
        let mut token = [0; 16];
        token[..4].copy_from_slice(&count.to_be_bytes());
        net.inject(0, "198.51.100.9:1000", cframe_mesh::probe::request(token, 1200));
    }
    net.run_for(SECOND);
    let answers = net.wire.captured.iter().filter(|bytes| bytes.len() == 1200).count();
    assert!((200..=400).contains(&answers), "{answers}");
}

#[test]
fn silence_is_seen_in_seconds_at_both_ends_also_if_only_one_direction_fails() {
    for one_way in [false, true] {
        let mut net = LinkNetwork::of(2, &[0, 1]);
        net.time_to_traffic(0, 1, SECOND).unwrap();
        net.run_for(20 * SECOND);
        let acked = |net: &LinkNetwork, edge: usize| {
            let status = net.edges[edge].mesh.as_ref().unwrap().links().next().unwrap();
            status.acked
        };
        for edge in 0..2 {
            let age = net.now - acked(&net, edge).unwrap();
            assert!(age <= Duration::from_millis(3200), "an idle link is asked: {age:?}");
        }
        if one_way {
            net.wire.mute = Some(net.edges[0].address);
        } else {
            net.cut_off(0);
        }
        let silent = |net: &LinkNetwork| {
            (0..2).all(|edge| {
                acked(net, edge).is_none_or(|at| net.now - at > Duration::from_millis(4800))
            })
        };
        let took = net.run_until(20 * SECOND, silent).unwrap();
        assert!(took <= 6 * SECOND, "one way {one_way}: {took:?}");
    }
}

#[test]
fn a_lossy_link_is_not_taken_for_silent() {
    for latency in [1, 20, 100] {
        let mut net = LinkNetwork::of(2, &[0, 1]);
        net.wire.latency = Duration::from_millis(latency);
        net.time_to_traffic(0, 1, SECOND).unwrap();
        net.wire.loss = 0.2;
        let mut longest = Duration::ZERO;
        for _ in 0..3000 {
            net.run_for(Duration::from_millis(200));
            for edge in 0..2 {
                let status = status(&mut net, edge);
                assert!(status.up, "{latency} ms");
                longest =
                    longest.max((net.now - status.acked.unwrap()).saturating_sub(4 * status.rtt));
            }
        }
        assert!(longest <= Duration::from_millis(4800), "{latency} ms: {longest:?}");
    }
}

#[test]
fn a_copy_of_an_edge_does_not_take_its_link_and_is_told() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    let copy = net.clone_edge(1);
    net.introduce_one(copy, 0);
    let events = net.edges[0].events.len();
    let mut delivered = 0;
    for _ in 0..300 {
        net.send(0, 1, 100);
        net.send(1, 0, 100);
        net.run_for(Duration::from_millis(100));
    }
    delivered += net.edges[1].delivered.len();
    assert!(delivered >= 300, "{delivered} of 300 packets");
    assert_eq!(net.edges[0].events.len(), events, "{:?}", net.edges[0].events);
    let seen = status(&mut net, 0).contested.unwrap();
    assert_eq!(seen.refused, Some(net.edges[copy].address));
    assert!(net.now - seen.at < 9 * SECOND);
    let told = status(&mut net, copy).contested.unwrap();
    assert!(told.refused.is_none() && net.now - told.at < 9 * SECOND);
    // The original ends, and the copy takes over.
    net.kill(1);
    let took = net.run_until(30 * SECOND, |net| {
        let status = net.edges[0].mesh.as_ref().unwrap().links().next().unwrap();
        status.up && status.remote == Some(net.edges[copy].address)
    });
    assert!(took.unwrap() <= 12 * SECOND, "{took:?}");
}

#[test]
fn a_copy_does_not_win_because_the_path_to_the_first_one_is_long() {
    for latency in [500, 1000] {
        let mut net = LinkNetwork::of(2, &[0, 1]);
        net.wire.latency = Duration::from_millis(latency);
        net.time_to_traffic(0, 1, 20 * SECOND).unwrap();
        net.run_for(10 * SECOND);
        let first = net.edges[1].address;
        let copy = net.clone_edge(1);
        net.introduce_one(copy, 0);
        let lost = net.run_until(60 * SECOND, |net| {
            let status = net.edges[0].mesh.as_ref().unwrap().links().next().unwrap();
            status.remote != Some(first)
        });
        assert_eq!(lost, None, "{latency} ms");
        assert_eq!(status(&mut net, 0).contested.unwrap().refused, Some(net.edges[copy].address));
    }
}

#[test]
fn an_edge_that_restarts_at_another_address_takes_over_within_a_second() {
    let mut net = LinkNetwork::of(2, &[1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.run_for(5 * SECOND);
    net.kill(0);
    net.edges[0].address = "198.51.100.77:58423".parse().unwrap();
    net.restart(0, &[1]);
    let took = net.time_to_traffic(1, 0, 5 * SECOND).unwrap();
    assert!(took <= SECOND, "{took:?}");
    let downs = |event: &&Event| matches!(event, Event::LinkDown { .. });
    assert_eq!(net.edges[1].events.iter().filter(downs).count(), 0);
}
