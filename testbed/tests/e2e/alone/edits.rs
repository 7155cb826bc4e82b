//! How soon an edit carries traffic.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::changes::answer_for_pods;
use crate::lab::{DeployedEdges, MS, TIMEOUT, alone, figure, start_pings};

const EDITS: usize = 100;

#[test]
fn a_new_route_carries_its_first_reply_within_100_ms_of_the_command() {
    let edges = DeployedEdges::start("routes", alone());
    let names: Vec<String> = (0..3).map(|site| answer_for_pods(&edges, site)).collect();
    let workloads = [&edges.sz, &edges.hk, &edges.idc].map(|edge| edge.site().workload().clone());
    let mut took: Vec<Duration> = Vec::new();
    for edit in 0..EDITS {
        let owner = edit % 3;
        let target: IpAddr = format!("10.{}.{edit}.10", 200 + owner).parse().unwrap();
        let pingers: Vec<_> = (0..3)
            .filter(|site| *site != owner)
            .map(|site| start_pings(&workloads[site], target, MS))
            .collect();
        let cidr = format!("10.{}.{edit}.0/24", 200 + owner);
        let route = format!("pods-{edit}");
        let start = Instant::now();
        let add = ["route", "add", &route, "-n", "prod", "--cidr", &cidr, "--edge", &names[owner]];
        edges.lab.deployment.ctl_ok(&add).unwrap();
        let first = pingers.iter().map(|pinger| pinger.reply_after(start, TIMEOUT).unwrap());
        took.push(first.max().unwrap());
    }
    took.sort_unstable();
    let [median, p95, max] = [EDITS / 2, EDITS * 95 / 100 - 1, EDITS - 1].map(|at| took[at]);
    figure(
        "route add → first reply at both other edges, 100 edits",
        format_args!("median {median:.1?}, p95 {p95:.1?}, max {max:.1?} (bound p95 100ms)"),
    );
    assert!(p95 <= 100 * MS, "p95 {p95:?}");
}
