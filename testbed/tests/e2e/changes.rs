//! Edits of the desired state, also concurrent ones.

use std::net::IpAddr;
use std::time::Instant;

use cframe_testbed::deployment::{Deployment, Output};

use crate::lab::{
    DeployedEdges, MS, SECOND, TIMEOUT, TestLab, figure, shared, start_pings, within,
};

/// Makes the workload at a site answer for all of 10.20x.0.0/16, as the nodes of a cluster would; returns the name of
/// the site's edge.
pub(crate) fn answer_for_pods(edges: &DeployedEdges, site: usize) -> String {
    let edge = [&edges.sz, &edges.hk, &edges.idc][site];
    let workload = edge.site().workload();
    let pods = format!("10.{}.0.0/16", 200 + site);
    workload.ip(&format!("route add local {pods} dev lo")).unwrap();
    edge.host().ip(&format!("route add {pods} via {}", workload.address())).unwrap();
    edge.name().to_owned()
}

/// Runs all commands in parallel.
fn run_in_parallel(deployment: &Deployment, commands: &[Vec<String>]) -> Vec<Output> {
    std::thread::scope(|scope| {
        let running: Vec<_> = commands
            .iter()
            .map(|command| {
                scope.spawn(move || {
                    let args: Vec<&str> = command.iter().map(String::as_str).collect();
                    deployment.ctl(&args).unwrap()
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn of_64_parallel_writers_of_overlapping_prefixes_one_succeeds() {
    let lab = TestLab::start("writers", shared());
    let adds: Vec<_> = (0..64)
        .map(|n| {
            let length = 16 + n % 9;
            words(&format!("edge add e{n} -n prod --cidr 10.50.0.0/{length} --timeout 20s"))
        })
        .collect();
    let start = Instant::now();
    let outputs = run_in_parallel(&lab.deployment, &adds);
    let took = start.elapsed();
    let succeeded = outputs.iter().filter(|output| output.code == 0).count();
    figure(
        "64 writers of overlapping prefixes",
        format_args!("{succeeded} succeeded, in {took:.1?}"),
    );
    for output in &outputs {
        assert!(output.code == 0 || output.code == 4, "{output}");
        assert!(output.code == 0 || output.stderr.contains("overlaps 10.50.0.0/"), "{output}");
    }
    assert_eq!(succeeded, 1);
    let edges = lab.deployment.ctl_json(&["edge", "list", "-n", "prod"]).unwrap();
    assert_eq!(edges.as_array().unwrap().len(), 1, "{edges:#}");
}

#[test]
fn of_64_parallel_writers_of_overlapping_routes_only_those_of_one_edge_succeed() {
    let lab = TestLab::start("routers", shared());
    for n in 0..4 {
        let cidr = format!("172.2{n}.0.0/16");
        let name = format!("e{n}");
        lab.deployment.ctl_ok(&["edge", "add", &name, "-n", "prod", "--cidr", &cidr]).unwrap();
    }
    let adds: Vec<_> = (0..64)
        .map(|n| {
            let (length, edge) = (16 + n % 9, n % 4);
            words(&format!(
                "route add r{n} -n prod --cidr 10.60.0.0/{length} --edge e{edge} --timeout 20s"
            ))
        })
        .collect();
    let outputs = run_in_parallel(&lab.deployment, &adds);
    assert!(outputs.iter().all(|output| [0, 4].contains(&output.code)), "{outputs:#?}");
    let routes = lab.deployment.ctl_json(&["route", "list", "-n", "prod"]).unwrap();
    let mut owners: Vec<&str> =
        routes.as_array().unwrap().iter().map(|route| route["edge"].as_str().unwrap()).collect();
    let succeeded = outputs.iter().filter(|output| output.code == 0).count();
    assert_eq!(owners.len(), succeeded, "{routes:#}");
    owners.dedup();
    assert_eq!(owners.len(), 1, "two edges share an address: {routes:#}");
}

#[test]
fn a_removed_route_carries_no_more_traffic() {
    let edges = DeployedEdges::start("unroute", shared());
    answer_for_pods(&edges, 1);
    let add = ["route", "add", "pods", "-n", "prod", "--cidr", "10.201.0.0/16", "--edge", "aws-hk"];
    edges.lab.deployment.ctl_ok(&add).unwrap();
    let target: IpAddr = "10.201.1.10".parse().unwrap();
    let pinger = start_pings(edges.sz.site().workload(), target, 5 * MS);
    pinger.steady(10, TIMEOUT).unwrap();
    let start = Instant::now();
    edges.lab.deployment.ctl_ok(&["route", "del", "pods", "-n", "prod", "--yes"]).unwrap();
    let sent = pinger.stats().sent;
    cframe_testbed::wait_until(TIMEOUT, || pinger.stats().sent >= sent + 100).unwrap();
    let stats = pinger.stop();
    let last = stats.probes.iter().filter_map(|probe| Some(probe.sent + probe.rtt?)).max().unwrap();
    within("route del → last reply through it", last.saturating_duration_since(start), SECOND);
}
