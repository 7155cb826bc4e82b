//! Underlay addresses that change.

use std::time::{Duration, Instant};

use cframe_testbed::Pinger;
use cframe_testbed::deployment::Edge;

use crate::lab::{DeployedEdges, DeployedPair, MS, SECOND, TIMEOUT, ping, shared, within};

/// Moves an edge to another address; returns the time until the first reply.
fn move_edge(edge: &Edge, to: &str, pinger: &Pinger) -> Duration {
    let start = Instant::now();
    edge.site().uplink().move_address(to).unwrap();
    let moved = Instant::now();
    let took = moved - start + pinger.reply_after(moved, TIMEOUT).unwrap();
    pinger.steady(50, TIMEOUT).unwrap();
    took
}

#[test]
fn a_dialer_whose_address_changes_carries_traffic_within_a_second() {
    let pair = DeployedPair::start("roam-dial", shared());
    let pinger = pair.ping(2 * MS);
    for address in ["192.0.2.99/24", "192.0.2.8/24", "100.99.0.7/24"] {
        let took = move_edge(&pair.dialer, address, &pinger);
        within(&format!("dialer moved to {address} → traffic"), took, SECOND);
    }
}

#[test]
fn an_acceptor_whose_address_changes_carries_traffic_within_a_second() {
    let pair = DeployedPair::start("roam-accept", shared());
    let pinger = pair.ping(2 * MS);
    for address in ["203.0.113.99/24", "203.0.113.8/24", "100.99.1.7/24"] {
        let took = move_edge(&pair.acceptor, address, &pinger);
        within(&format!("acceptor moved to {address} → traffic"), took, SECOND);
    }
}

#[test]
fn either_of_two_edges_that_dial_each_other_may_move() {
    let edges = DeployedEdges::start("roam-any", shared());
    let pinger = ping(&edges.sz, &edges.idc, 2 * MS);
    let took = move_edge(&edges.idc, "198.18.0.99/24", &pinger);
    within("one of two dialers moved → traffic", took, SECOND);
    let took = move_edge(&edges.sz, "192.0.2.99/24", &pinger);
    within("the other dialer moved too → traffic", took, SECOND);
}
