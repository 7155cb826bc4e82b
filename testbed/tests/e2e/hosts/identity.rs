//! One identity on two hosts: the data directory of a gateway was copied, and both run.
//!
//! The host that came first carries traffic as before. The other one is refused by peers and controllers, and is
//! told; `cfctl status` names both addresses and how to end it.

use std::time::Duration;

use cframe_testbed::deployment::{Deployment, Edge};
use cframe_testbed::{Nat, Pinger, Site};
use serde_json::Value;

use super::support::{SHOWN, wait_edge_problem, wait_healthy, wait_problem_with};
use crate::cluster::lab::{Cluster, connected, wait_connected};
use crate::lab::{
    DeployedEdges, DeployedPair, MS, SECOND, TIMEOUT, figure, linked, ping, shared, start_pings,
    wait_for, within,
};

const CODE: &str = "identity-in-use";
/// For how long both hosts run while traffic is watched.
const BOTH_RUN: Duration = Duration::from_secs(12);
/// A host takes over from the one with its identity that has ended.
const TAKEN_OVER: Duration = Duration::from_secs(12);

/// Where the session of `aliyun-sz` may come from: the family that reaches the controller first.
const SZ_SESSIONS: &[&str] = &["[2001:db8:5::7]", "192.0.2.7"];

/// Waits until the status names both hosts, each by one of its addresses, and what to do.
fn named(deployment: &Deployment, subject: &str, hosts: [&[&str]; 2]) -> Value {
    let problem = wait_problem_with(deployment, CODE, subject, &["is used from"], SHOWN);
    let text = problem["text"].as_str().unwrap();
    let has = |host: &[&str]| host.iter().any(|address| text.contains(address));
    assert!(has(hosts[0]) && has(hosts[1]), "{problem:#}");
    let fix = problem["fix"].as_str().unwrap();
    assert!(fix.contains("stop cframe-edge") && fix.contains("--rejoin"), "{fix}");
    problem
}

/// Watches pings while both hosts run. A few may be lost where links are compared.
fn steady(what: &str, pingers: Vec<Pinger>) {
    std::thread::sleep(BOTH_RUN);
    for pinger in pingers {
        let stats = pinger.stop();
        figure(what, format_args!("{} of {} lost", stats.lost.len(), stats.sent));
        assert!(stats.lost.len() * 200 <= stats.sent, "{what}: {stats}");
    }
}

/// How often an edge's log has a line with these words about a peer.
fn logged(edge: &Edge, words: &str, peer: &str) -> usize {
    let log = edge.process().log();
    log.lines().filter(|line| line.contains(words) && line.contains(peer)).count()
}

/// A site that has the network of `aliyun-sz`, for its copy.
fn site_for_copy(edges: &mut DeployedEdges) -> Site {
    let site = edges.lab.net.site("copy").public("100.99.0.7/24").inner("172.18.0.0/16");
    site.build().unwrap()
}

#[test]
fn a_copy_is_refused_and_told_and_takes_over_when_the_original_ends_and_keeps_the_identity() {
    let mut edges = DeployedEdges::start("copied", shared());
    let site = site_for_copy(&mut edges);
    let pingers = vec![ping(&edges.sz, &edges.hk, 20 * MS), ping(&edges.idc, &edges.sz, 20 * MS)];
    let ups = logged(&edges.hk, "link up", "aliyun-sz");
    let mut copy = edges.sz.start_copy(&site).unwrap();
    let deployment = &edges.lab.deployment;
    named(deployment, "prod/aliyun-sz", [SZ_SESSIONS, &["100.99.0.7"]]);
    wait_edge_problem(&copy, CODE, "");
    wait_edge_problem(&edges.hk, CODE, "aliyun-sz");
    steady("pings of the original beside its copy", pingers);
    assert_eq!(logged(&edges.hk, "link up", "aliyun-sz"), ups, "its link was replaced");
    named(deployment, "prod/aliyun-sz", [SZ_SESSIONS, &["100.99.0.7"]]);

    // The host of the original restarts, and the copy is first.
    edges.sz.kill9().unwrap();
    let took = wait_for(2 * TAKEN_OVER, || linked(&copy, "aws-hk") && linked(&copy, "idc"));
    within("the copy takes over", took.unwrap(), TAKEN_OVER);
    wait_healthy(deployment, SHOWN);
    let hk = edges.hk.site().workload().address();
    let pinger = start_pings(site.workload(), hk, 20 * MS);
    pinger.steady(20, TIMEOUT).unwrap();
    edges.sz.start().unwrap();
    named(deployment, "prod/aliyun-sz", [&["100.99.0.7"], SZ_SESSIONS]);
    wait_edge_problem(&edges.sz, CODE, "");
    steady("pings of the copy, which came first, beside the original", vec![pinger]);

    copy.stop().unwrap();
    let took = wait_for(2 * TAKEN_OVER, || linked(&edges.sz, "aws-hk") && linked(&edges.sz, "idc"));
    within("the original takes over", took.unwrap(), TAKEN_OVER);
    wait_healthy(deployment, SHOWN);
    ping(&edges.sz, &edges.hk, 20 * MS);
}

#[test]
fn a_copy_behind_the_same_nat_is_refused_and_told() {
    let mut pair = DeployedPair::behind_nat("natcopy", Nat::masquerade(), shared());
    let site = pair.lab.net.site("copy").public("100.99.0.7/24").inner("172.18.0.0/16");
    let site = site.build().unwrap();
    pair.dialer.site().share_nat(&site).unwrap();
    let pinger = pair.ping(20 * MS);
    let ups = logged(&pair.acceptor, "link up", "aliyun-sz");
    let mut copy = pair.dialer.start_copy(&site).unwrap();
    // One address, and the port of each that the NAT has chosen.
    named(&pair.lab.deployment, "prod/aliyun-sz", [&["192.0.2.7:"], &["192.0.2.7:"]]);
    wait_edge_problem(&copy, CODE, "");
    steady("pings of the original beside its copy behind one NAT", vec![pinger]);
    assert_eq!(logged(&pair.acceptor, "link up", "aliyun-sz"), ups, "its link was replaced");
    copy.kill9().unwrap();
    wait_healthy(&pair.lab.deployment, SHOWN);
}

#[test]
fn a_copy_at_another_controller_is_refused_and_told() {
    let mut cluster = Cluster::start("ctlcopy", 2, shared());
    let [mut original, mut other] = [0, 0].map(|controller| cluster.edge(controller));
    original.wait_links(1).unwrap();
    other.wait_links(1).unwrap();
    let site = cluster.site();
    let uplink = site.uplink();
    let (first, second) = (&cluster.hosts[0], &cluster.hosts[1]);
    // The copy reaches only the second controller.
    uplink.cut_from(first.uplink(), true).unwrap();
    let pinger = ping(&original, &other, 20 * MS);
    let mut copy = original.start_copy(&site).unwrap();
    let subject = format!("prod/{}", original.name());
    let addresses: [&[&str]; 2] = [&["100.71.0.7"], &["100.73.0.7"]];
    named(&cluster.deployment, &subject, addresses);
    wait_edge_problem(&copy, CODE, "");
    steady("pings of the original beside its copy at another controller", vec![pinger]);
    named(&cluster.deployment, &subject, addresses);
    assert_eq!(connected(&original), Some(first.address()));
    assert_eq!(connected(&copy), None, "refused by the second controller too");
    // The original ends, and the copy gets its session.
    original.stop().unwrap();
    wait_connected(&copy, &[second.address()], TIMEOUT + 5 * SECOND);
    copy.wait_links(1).unwrap();
    wait_healthy(&cluster.deployment, SHOWN);
}
