//! Programs that end and start again.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cframe_testbed::deployment::Edge;
use cframe_testbed::{Pinger, wait_until};

use crate::lab::{
    DeployedEdges, DeployedPair, MS, SECOND, TIMEOUT, figure, linked, ping, shared, wait_for,
    within,
};

/// Kills and starts an edge; returns the time from its start to the first reply.
fn kill_and_start(edge: &mut Edge, pinger: &Pinger) -> Duration {
    edge.kill9().unwrap();
    edge.start().unwrap();
    let took = pinger.reply_after(edge.process().started(), TIMEOUT).unwrap();
    pinger.steady(20, TIMEOUT).unwrap();
    took
}

#[test]
fn a_killed_edge_carries_traffic_within_a_second_of_its_start() {
    let mut pair = DeployedPair::start("kill", shared());
    let pinger = pair.ping(2 * MS);
    for round in 1..=5 {
        let took = kill_and_start(&mut pair.acceptor, &pinger);
        within(&format!("killed acceptor → traffic, round {round}"), took, SECOND);
        let took = kill_and_start(&mut pair.dialer, &pinger);
        within(&format!("killed dialer → traffic, round {round}"), took, SECOND);
    }
}

#[test]
fn an_edge_that_was_down_for_15_s_carries_traffic_within_a_second_of_its_start() {
    let mut pair = DeployedPair::start("away", shared());
    let pinger = pair.ping(5 * MS);
    // The acceptor stores the dialer's address shortly after the link is up.
    let last_seen = pair.acceptor.dir().join("last-seen.json");
    wait_until(TIMEOUT, || last_seen.exists()).unwrap();
    for as_acceptor in [true, false] {
        let (down, other) = match as_acceptor {
            true => (&mut pair.acceptor, &pair.dialer),
            false => (&mut pair.dialer, &pair.acceptor),
        };
        down.kill9().unwrap();
        let name = down.name().to_owned();
        wait_for(2 * TIMEOUT, || !linked(other, &name)).unwrap();
        // Until the other edge dials at its longest interval.
        let sent = pinger.stats().sent;
        wait_until(2 * TIMEOUT, || pinger.stats().sent >= sent + 1200).unwrap();
        down.start().unwrap();
        let took = pinger.reply_after(down.process().started(), TIMEOUT).unwrap();
        let what = if as_acceptor { "acceptor" } else { "dialer" };
        within(&format!("{what} down for 15 s → traffic"), took, SECOND);
        pinger.steady(20, TIMEOUT).unwrap();
    }
}

#[test]
fn a_controller_that_is_down_for_30_s_costs_no_packet_and_an_edge_starts_without_it() {
    let mut edges = DeployedEdges::start("headless", shared());
    let pinger = ping(&edges.sz, &edges.hk, 10 * MS);
    let to_idc = ping(&edges.hk, &edges.idc, 2 * MS);
    let killed = Instant::now();
    edges.lab.deployment.controller_mut().kill9().unwrap();
    let sent = pinger.stats().sent;
    sleep((5 * SECOND).saturating_sub(killed.elapsed()));
    edges.idc.stop().unwrap();
    edges.idc.start().unwrap();
    let took = to_idc.reply_after(edges.idc.process().started(), TIMEOUT).unwrap();
    within("edge restarted without a controller → traffic", took, SECOND);
    edges.idc.kill9().unwrap();
    edges.idc.start().unwrap();
    let took = to_idc.reply_after(edges.idc.process().started(), TIMEOUT).unwrap();
    within("edge killed and started without a controller → traffic", took, SECOND);
    sleep((30 * SECOND).saturating_sub(killed.elapsed()));
    assert!(pinger.stats().sent >= sent + 2_900, "{}", pinger.stats());
    edges.lab.deployment.controller_mut().start().unwrap();
    for edge in edges.all() {
        edge.wait_synced().unwrap();
    }
    let stats = pinger.stop();
    figure(
        "controller down for 30 s, at 100 pings per second",
        format_args!("{} sent, {} lost (bound 0)", stats.sent, stats.lost.len()),
    );
    assert_eq!(stats.lost, Vec::<usize>::new(), "{stats}");
}
