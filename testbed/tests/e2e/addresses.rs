//! Underlay addresses that change.

use std::time::Instant;

use cframe_testbed::Pinger;
use cframe_testbed::deployment::Edge;

use crate::world::{MS, PATIENCE, Pair, SECOND, World, ping, shared, within};

fn moved(edge: &Edge, to: &str, pinger: &Pinger) -> std::time::Duration {
    let start = Instant::now();
    edge.site().uplink().move_address(to).unwrap();
    let moved = Instant::now();
    let took = moved - start + pinger.reply_after(moved, PATIENCE).unwrap();
    pinger.steady(50, PATIENCE).unwrap();
    took
}

#[test]
fn a_dialer_whose_address_changes_carries_traffic_within_a_second() {
    let pair = Pair::start("roam-dial", shared());
    let pinger = pair.ping(2 * MS);
    for address in ["192.0.2.99/24", "192.0.2.8/24", "100.99.0.7/24"] {
        let took = moved(&pair.dialer, address, &pinger);
        within(&format!("dialer moved to {address} → traffic"), took, SECOND);
    }
}

#[test]
fn an_acceptor_whose_address_changes_carries_traffic_within_a_second() {
    let pair = Pair::start("roam-accept", shared());
    let pinger = pair.ping(2 * MS);
    for address in ["203.0.113.99/24", "203.0.113.8/24", "100.99.1.7/24"] {
        let took = moved(&pair.acceptor, address, &pinger);
        within(&format!("acceptor moved to {address} → traffic"), took, SECOND);
    }
}

#[test]
fn among_edges_that_dial_each_other_any_may_move() {
    let world = World::start("roam-any", shared());
    let pinger = ping(&world.sz, &world.idc, 2 * MS);
    let took = moved(&world.idc, "198.18.0.99/24", &pinger);
    within("one of two diallers moved → traffic", took, SECOND);
    let took = moved(&world.sz, "192.0.2.99/24", &pinger);
    within("the other moved too → traffic", took, SECOND);
}
