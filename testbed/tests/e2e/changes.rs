//! Edits of desired state, and what concurrent ones come to.

use std::time::{Duration, Instant};

use cframe_testbed::deployment::{Deployment, Output};

use crate::world::{MS, Mesh, PATIENCE, SECOND, World, alone, figure, pinging, shared, within};

const EDITS: usize = 100;

/// The workload at a site answers for all of 10.20x.0.0/16, as a cluster's nodes would.
fn answer_for_pods(world: &World, site: usize) -> String {
    let edge = [&world.sz, &world.hk, &world.idc][site];
    let workload = edge.site().workload();
    let pods = format!("10.{}.0.0/16", 200 + site);
    workload.ip(&format!("route add local {pods} dev lo")).unwrap();
    edge.host().ip(&format!("route add {pods} via {}", workload.address())).unwrap();
    edge.name().to_owned()
}

#[test]
fn a_new_route_carries_its_first_reply_within_100_ms_of_the_command() {
    let world = World::start("routes", alone());
    let names: Vec<String> = (0..3).map(|site| answer_for_pods(&world, site)).collect();
    let workloads = [&world.sz, &world.hk, &world.idc].map(|edge| edge.site().workload().clone());
    let mut took: Vec<Duration> = Vec::new();
    for edit in 0..EDITS {
        let owner = edit % 3;
        let target: std::net::IpAddr = format!("10.{}.{edit}.10", 200 + owner).parse().unwrap();
        let pingers: Vec<_> = (0..3)
            .filter(|site| *site != owner)
            .map(|site| pinging(&workloads[site], target, MS))
            .collect();
        let cidr = format!("10.{}.{edit}.0/24", 200 + owner);
        let route = format!("pods-{edit}");
        let start = Instant::now();
        let add = ["route", "add", &route, "-n", "prod", "--cidr", &cidr, "--edge", &names[owner]];
        world.mesh.deployment.ctl_ok(&add).unwrap();
        let first = pingers.iter().map(|pinger| pinger.reply_after(start, PATIENCE).unwrap());
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

/// Runs so many commands at once.
fn at_once(deployment: &Deployment, commands: &[Vec<String>]) -> Vec<Output> {
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
fn of_64_writers_who_want_overlapping_prefixes_one_wins() {
    let mesh = Mesh::start("writers", shared());
    let adds: Vec<_> = (0..64)
        .map(|n| {
            let length = 16 + n % 9;
            words(&format!("edge add e{n} -n prod --cidr 10.50.0.0/{length} --timeout 20s"))
        })
        .collect();
    let start = Instant::now();
    let outputs = at_once(&mesh.deployment, &adds);
    let took = start.elapsed();
    let winners = outputs.iter().filter(|output| output.code == 0).count();
    figure("64 writers of overlapping prefixes", format_args!("{winners} winner, in {took:.1?}"));
    for output in &outputs {
        assert!(output.code == 0 || output.code == 4, "{output}");
        assert!(output.code == 0 || output.stderr.contains("overlaps 10.50.0.0/"), "{output}");
    }
    assert_eq!(winners, 1);
    let edges = mesh.deployment.ctl_json(&["edge", "list", "-n", "prod"]).unwrap();
    assert_eq!(edges.as_array().unwrap().len(), 1, "{edges:#}");
}

#[test]
fn of_64_writers_of_overlapping_routes_only_those_of_one_edge_win() {
    let mesh = Mesh::start("routers", shared());
    for n in 0..4 {
        let cidr = format!("172.2{n}.0.0/16");
        let name = format!("e{n}");
        mesh.deployment.ctl_ok(&["edge", "add", &name, "-n", "prod", "--cidr", &cidr]).unwrap();
    }
    let adds: Vec<_> = (0..64)
        .map(|n| {
            let (length, edge) = (16 + n % 9, n % 4);
            words(&format!(
                "route add r{n} -n prod --cidr 10.60.0.0/{length} --edge e{edge} --timeout 20s"
            ))
        })
        .collect();
    let outputs = at_once(&mesh.deployment, &adds);
    assert!(outputs.iter().all(|output| [0, 4].contains(&output.code)), "{outputs:#?}");
    let routes = mesh.deployment.ctl_json(&["route", "list", "-n", "prod"]).unwrap();
    let mut owners: Vec<&str> =
        routes.as_array().unwrap().iter().map(|route| route["edge"].as_str().unwrap()).collect();
    let won = outputs.iter().filter(|output| output.code == 0).count();
    assert_eq!(owners.len(), won, "{routes:#}");
    owners.dedup();
    assert_eq!(owners.len(), 1, "two edges share an address: {routes:#}");
}

#[test]
fn a_route_that_is_removed_carries_nothing_more() {
    let world = World::start("unroute", shared());
    answer_for_pods(&world, 1);
    let add = ["route", "add", "pods", "-n", "prod", "--cidr", "10.201.0.0/16", "--edge", "aws-hk"];
    world.mesh.deployment.ctl_ok(&add).unwrap();
    let target: std::net::IpAddr = "10.201.1.10".parse().unwrap();
    let pinger = pinging(world.sz.site().workload(), target, 5 * MS);
    pinger.steady(10, PATIENCE).unwrap();
    let start = Instant::now();
    world.mesh.deployment.ctl_ok(&["route", "del", "pods", "-n", "prod", "--yes"]).unwrap();
    let sent = pinger.stats().sent;
    cframe_testbed::wait_until(PATIENCE, || pinger.stats().sent >= sent + 100).unwrap();
    let stats = pinger.stop();
    let last = stats.probes.iter().filter_map(|probe| Some(probe.sent + probe.rtt?)).max().unwrap();
    within("route del → last reply through it", last.saturating_duration_since(start), SECOND);
}
