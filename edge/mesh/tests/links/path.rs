//! Packets on a link: path MTU, congestion, and limits of memory.

use std::time::Duration;

use cframe_mesh::{PathQuality, Reason};

use crate::{
    SECOND,
    network::{LinkNetwork, addr, ping},
};

#[test]
fn packets_of_every_size_arrive_right_after_the_link_comes_up() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.run_until(SECOND, |net| net.links_up(0) == 1 && net.links_up(1) == 1).unwrap();
    for len in (20..=1500).step_by(37).chain([1500]) {
        net.send(0, 1, len);
    }
    net.run_for(SECOND);
    let mut lens: Vec<_> = net.edges[1].delivered.iter().map(Vec::len).collect();
    lens.sort_unstable();
    assert_eq!(lens, (20..=1500).step_by(37).chain([1500]).collect::<Vec<_>>());
    let counters = net.mesh(0).counters();
    assert!(counters.fragmented > 0, "the path was not yet known to carry the largest");
}

#[test]
fn the_path_mtu_is_discovered_and_its_fall_costs_no_packet_once_noticed() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.run_for(3 * SECOND);
    let mtu = |net: &mut LinkNetwork| net.mesh(0).links().next().unwrap().path_mtu;
    assert!(mtu(&mut net) >= 1452, "{}", mtu(&mut net));
    net.wire.mtu = 1272;
    // A sender that retransmits with backoff, as TCP does.
    let mut gap = Duration::from_millis(200);
    let mut noticed = Duration::ZERO;
    while mtu(&mut net) > 1272 {
        net.send(0, 1, 1400);
        net.run_for(gap);
        noticed += gap;
        gap = (gap * 2).min(SECOND);
        assert!(noticed < 10 * SECOND, "the black hole was not noticed");
    }
    assert!(noticed <= 5 * SECOND, "{noticed:?}");
    let before = net.edges[1].delivered.len();
    for _ in 0..200 {
        net.send(0, 1, 1500);
        net.run_for(Duration::from_millis(10));
    }
    net.run_for(SECOND);
    assert_eq!(net.edges[1].delivered.len() - before, 200);
    net.wire.mtu = 1472;
    net.run_until(60 * SECOND, |net| {
        net.edges[0].mesh.as_ref().unwrap().links().next().unwrap().path_mtu >= 1452
    })
    .unwrap();
}

#[test]
fn a_steady_stream_of_large_packets_alone_notices_that_the_path_shrank() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.run_for(3 * SECOND);
    net.wire.mtu = 1272;
    // No pause is as long as a probe timeout (RFC 9002 §6.2), which every packet postpones.
    let before = net.edges[1].delivered.len();
    let mut sent = 0;
    while net.edges[1].delivered.len() == before {
        assert!(sent < 300, "the black hole was not noticed in 3 s");
        net.send(0, 1, 1400);
        net.run_for(Duration::from_millis(10));
        sent += 1;
    }
    assert_eq!(net.links_up(0), 1);
}

#[test]
fn a_path_that_loses_everything_takes_a_bounded_amount_of_memory() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.run_for(SECOND);
    net.cut_off(1);
    net.wire.captured.clear();
    for _ in 0..200 {
        for _ in 0..500 {
            net.send(0, 1, 1400);
        }
        net.run_for(Duration::from_millis(10));
    }
    let sent: usize = net.wire.captured.iter().map(Vec::len).sum();
    assert!(sent < 17 << 20, "bytes in flight are capped, {sent} left");
    let dropped: u64 = net.mesh(0).counters().dropped().map(|(_, count)| count).sum();
    assert!(dropped > 50_000, "{dropped}");
}

#[test]
fn a_flow_in_one_direction_leaves_nothing_in_flight_at_its_receiver() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.run_until(Duration::from_secs(5), |net| net.links_up(0) + net.links_up(1) == 2).unwrap();
    net.run_for(Duration::from_secs(5));
    // Each packet is acknowledged separately. Acknowledgements are acknowledged only together with
    // data, or on request; in either case they must not add up.
    let whole = net.mesh(0).links().next().unwrap().largest_inner;
    for _ in 0..3000 {
        net.send(0, 1, whole);
        net.run_for(Duration::from_millis(40));
        assert!(net.mesh(1).load().in_flight < 60_000);
    }
    assert!(net.edges[1].delivered.len() >= 2999);
    net.run_for(Duration::from_secs(1));
    assert!(net.time_to_traffic(1, 0, Duration::from_millis(100)).is_some());
}

#[test]
fn a_full_direction_does_not_starve_the_acknowledgements_of_the_other() {
    let delivered = [false, true].map(|both| {
        let mut net = LinkNetwork::of(2, &[0, 1]);
        net.wire.latency = Duration::from_millis(100);
        net.run_for(5 * SECOND);
        let mut delivered = 0;
        for _ in 0..300 {
            for _ in 0..1500 {
                net.send(0, 1, 1400);
                if both {
                    net.send(1, 0, 1400);
                }
            }
            net.run_for(Duration::from_millis(10));
            delivered += net.edges[1].delivered.len();
            net.edges.iter_mut().for_each(|edge| edge.delivered.clear());
            net.wire.captured.clear();
        }
        delivered
    });
    let [alone, both] = delivered;
    assert!(both * 10 > alone * 8, "alone {alone}, with the other direction full {both}");
}

#[test]
fn batches_of_jumbo_packets_fit_into_one_udp_payload() {
    let mut net = LinkNetwork::new();
    net.underlay_mtu = 9001;
    net.wire.mtu = 8973;
    net.add("a", "prod", 3600 * SECOND);
    net.add("b", "prod", 3600 * SECOND);
    net.introduce(0, &[0, 1]);
    net.introduce(1, &[0, 1]);
    net.run_for(10 * SECOND);
    assert_eq!(net.mesh(0).links().next().unwrap().path_mtu, 1538, "what the TUN needs, no more");
    for _ in 0..200 {
        net.send(0, 1, 1400);
    }
    net.run_for(SECOND);
    assert_eq!(net.edges[1].delivered.len(), 200);
    assert!(net.wire.largest_batch <= 65_507, "{}", net.wire.largest_batch);
}

#[test]
fn a_congestion_mark_is_copied_to_the_inner_packet_or_drops_it() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.run_for(SECOND);
    net.edges[1].delivered.clear();
    net.wire.congested = true;
    net.send(0, 1, 100);
    let mut ecn_capable = ping(addr(0, 1), addr(1, 1), 100);
    ecn_capable[1] |= 0b10;
    let sum = u16::from_be_bytes([ecn_capable[10], ecn_capable[11]]);
    ecn_capable[10..12].copy_from_slice(&(sum - 0b10).to_be_bytes());
    net.send_raw(0, &ecn_capable);
    net.run_for(SECOND);
    let delivered = &net.edges[1].delivered;
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0][1] & 0b11, 0b11);
    assert_eq!(net.mesh(1).counters().dropped_for(Reason::CongestionNotEct), 1);
}

fn quality(net: &LinkNetwork, edge: usize) -> PathQuality {
    net.edges[edge].mesh.as_ref().unwrap().links().next().unwrap().quality
}

#[test]
fn a_path_that_becomes_too_narrow_under_a_link_is_seen_at_both_ends_though_nothing_is_sent() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.run_for(10 * SECOND);
    net.wire.mtu = 1000;
    let both = |net: &LinkNetwork, narrow: bool| {
        (0..2).all(|edge| quality(net, edge) == PathQuality { is_too_narrow: narrow, loss: None })
    };
    let took = net.run_until(20 * SECOND, |net| both(net, true)).unwrap();
    assert!(took <= Duration::from_millis(8500), "{took:?}");
    assert!(net.time_to_traffic(0, 1, SECOND).is_some(), "small packets pass");
    net.wire.mtu = 1472;
    let took = net.run_until(20 * SECOND, |net| both(net, false)).unwrap();
    assert!(took <= 3 * SECOND, "{took:?}");
    assert_eq!((net.links_up(0), net.links_up(1)), (1, 1));
}

#[test]
fn a_loss_of_a_third_is_seen_within_seconds_and_one_of_a_twentieth_never() {
    let mut net = LinkNetwork::of(2, &[0, 1]);
    net.wire.latency = Duration::from_millis(150);
    net.time_to_traffic(0, 1, SECOND).unwrap();
    net.run_for(10 * SECOND);
    net.wire.loss = 0.05;
    for second in 0..1200 {
        (0..5).for_each(|_| net.send(0, 1, 900));
        net.run_for(SECOND);
        for edge in 0..2 {
            assert_eq!(quality(&net, edge), PathQuality::default(), "after {second} s");
        }
    }
    net.wire.loss = 0.18;
    // A third of the checks or their answers.
    let seen = |net: &LinkNetwork| (0..2).any(|edge| quality(net, edge).loss.is_some());
    assert!(net.run_until(20 * SECOND, seen).unwrap() <= 8 * SECOND);
    net.wire.loss = 0.0;
    assert!(net.run_until(20 * SECOND, |net| !seen(net)).unwrap() <= 6 * SECOND);
}
