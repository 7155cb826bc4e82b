//! Programs that end and come back.

use std::time::{Duration, Instant};

use cframe_testbed::deployment::Edge;
use cframe_testbed::{Pinger, wait_until};

use crate::world::{MS, PATIENCE, Pair, SECOND, World, linked, ping, pinging, shared, within};

/// From the start of a program that was killed to the first reply.
fn back_after_kill(edge: &mut Edge, pinger: &Pinger) -> Duration {
    edge.kill9().unwrap();
    edge.start().unwrap();
    let took = pinger.reply_after(edge.process().started(), PATIENCE).unwrap();
    pinger.steady(20, PATIENCE).unwrap();
    took
}

#[test]
fn a_killed_edge_carries_traffic_within_a_second_of_its_start() {
    let mut pair = Pair::start("kill", shared());
    let pinger = pair.ping(2 * MS);
    for round in 1..=5 {
        let took = back_after_kill(&mut pair.acceptor, &pinger);
        within(&format!("killed acceptor → traffic, round {round}"), took, SECOND);
        let took = back_after_kill(&mut pair.dialer, &pinger);
        within(&format!("killed dialer → traffic, round {round}"), took, SECOND);
    }
}

#[test]
fn an_edge_that_was_away_for_long_carries_traffic_within_a_second_of_its_start() {
    let mut pair = Pair::start("away", shared());
    let pinger = pair.ping(5 * MS);
    // The acceptor has noted where the dialer is, as one that has run for a moment has.
    let noted = pair.acceptor.dir().join("last-seen.json");
    wait_until(PATIENCE, || noted.exists()).unwrap();
    for as_acceptor in [true, false] {
        let (gone, other) = match as_acceptor {
            true => (&mut pair.acceptor, &pair.dialer),
            false => (&mut pair.dialer, &pair.acceptor),
        };
        gone.kill9().unwrap();
        let name = gone.name().to_owned();
        wait_until(2 * PATIENCE, || !linked(other, &name)).unwrap();
        // Until the other's attempts are as rare as they become.
        let sent = pinger.stats().sent;
        wait_until(2 * PATIENCE, || pinger.stats().sent >= sent + 1200).unwrap();
        gone.start().unwrap();
        let took = pinger.reply_after(gone.process().started(), PATIENCE).unwrap();
        let what = if as_acceptor { "acceptor" } else { "dialer" };
        within(&format!("{what} away for 15 s → traffic"), took, SECOND);
        pinger.steady(20, PATIENCE).unwrap();
    }
}

#[test]
fn a_controller_that_is_killed_for_30_s_costs_no_packet_and_an_edge_starts_without_it() {
    let mut world = World::start("headless", shared());
    let pinger = ping(&world.sz, &world.hk, 10 * MS);
    let to_idc = pinging(world.hk.site().workload(), world.idc.site().workload().address(), 2 * MS);
    to_idc.steady(20, PATIENCE).unwrap();
    let killed = Instant::now();
    world.mesh.deployment.kill9_controller().unwrap();
    let sent = pinger.stats().sent;
    wait_until(PATIENCE, || killed.elapsed() >= 5 * SECOND).unwrap();
    world.idc.stop().unwrap();
    world.idc.start().unwrap();
    let took = to_idc.reply_after(world.idc.process().started(), PATIENCE).unwrap();
    within("edge restarted without a controller → traffic", took, SECOND);
    world.idc.kill9().unwrap();
    world.idc.start().unwrap();
    let took = to_idc.reply_after(world.idc.process().started(), PATIENCE).unwrap();
    within("edge killed and started without a controller → traffic", took, SECOND);
    wait_until(4 * PATIENCE, || killed.elapsed() >= 30 * SECOND).unwrap();
    assert!(pinger.stats().sent >= sent + 2_900, "{}", pinger.stats());
    world.mesh.deployment.start_controller().unwrap();
    for edge in world.edges() {
        edge.wait_synced().unwrap();
    }
    let stats = pinger.stop();
    crate::world::figure(
        "controller killed for 30 s under 100 pings a second",
        format_args!("{} sent, {} lost (bound 0)", stats.sent, stats.lost.len()),
    );
    assert_eq!(stats.lost, Vec::<usize>::new(), "{stats}");
}
