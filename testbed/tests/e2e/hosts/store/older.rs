//! A store that was replaced by an older copy, as by the restore of a virtual machine.

use std::path::PathBuf;

use cframe_protocol::v1::Version;
use cframe_testbed::deployment::{Edge, Output};
use serde_json::Value;

use crate::cluster::lab::{Cluster, version};
use crate::hosts::support::{MeshStatus, SHOWN, UNHEALTHY, wait_healthy, wait_problem};
use crate::lab::{DeployedEdges, MS, TestLab, ip, none_lost, ping, shared, wait_for, within};

/// The exit code of a `--wait` that fails.
const NOT_ALL: i32 = 7;

fn add_route(lab: &TestLab, name: &str, third: u8) -> Output {
    let cidr = format!("10.250.{third}.0/24");
    let add = ["route", "add", name, "-n", "prod", "--cidr", &cidr, "--edge", "aws-hk", "--wait"];
    lab.deployment.ctl(&add).unwrap()
}

/// Whether an edge routes a prefix.
fn routes(edge: &Edge, prefix: &str) -> bool {
    ip(edge.host(), &["route", "show", "table", "all", prefix]).contains(prefix)
}

/// A mesh whose store is older than what its edges have.
fn rolled_back(name: &str) -> DeployedEdges {
    let mut edges = DeployedEdges::start(name, shared());
    let copy: PathBuf = edges.lab.deployment.copy_store().unwrap();
    edges.lab.deployment.controller_mut().wait_ready().unwrap();
    edges.lab.deployment.wait_in_sync("prod", 3).unwrap();
    for number in 1..=3 {
        add_route(&edges.lab, &format!("lost-{number}"), number).success().unwrap();
    }
    edges.lab.deployment.roll_back_store(&copy).unwrap();
    edges.lab.deployment.controller_mut().wait_ready().unwrap();
    edges
}

#[test]
fn an_older_store_is_named_and_the_fix_makes_every_edge_follow_it() {
    let edges = rolled_back("older");
    let pings = vec![ping(&edges.sz, &edges.hk, 20 * MS), ping(&edges.hk, &edges.idc, 20 * MS)];
    let deployment = &edges.lab.deployment;
    for edge in ["aliyun-sz", "aws-hk", "idc"] {
        let found = wait_problem(deployment, "store-older", &format!("prod/{edge}"), SHOWN);
        let text = found["text"].as_str().unwrap();
        assert!(text.contains("older copy") && text.contains(edge), "{text}");
    }
    let refused = add_route(&edges.lab, "late", 9);
    assert_eq!(refused.code, NOT_ALL, "{refused}");
    for part in ["store is older", "aws-hk", "cfctl store accept"] {
        assert!(refused.stderr.contains(part), "{part}: {refused}");
    }
    assert!(!refused.stdout.contains("all have it") && !refused.stderr.contains("all have it"));
    assert!(!routes(&edges.sz, "10.250.9.0/24") && routes(&edges.sz, "10.250.1.0/24"));

    let deployment = &edges.lab.deployment;
    let found = wait_problem(deployment, "store-older", "", SHOWN);
    let fixed = deployment.operator().shell(found["fix"].as_str().unwrap()).unwrap();
    fixed.success().unwrap();
    within("fix → healthy", wait_healthy(deployment, SHOWN), SHOWN);
    deployment.wait_in_sync("prod", 3).unwrap();
    for edge in [&edges.sz, &edges.idc] {
        // The store's route, and none that it does not have.
        let follows = || routes(edge, "10.250.9.0/24") && !routes(edge, "10.250.1.0/24");
        wait_for(SHOWN, follows).unwrap();
    }
    add_route(&edges.lab, "next", 10).success().unwrap();
    none_lost("pings lost while the store was older", pings);
}

#[test]
fn a_store_that_was_replaced_while_the_controller_was_stopped_is_named_too() {
    let mut edges = rolled_back("olderst");
    edges.lab.deployment.controller_mut().restart().unwrap();
    // Also before the edges have connected again.
    let refused = add_route(&edges.lab, "early", 8);
    assert_eq!(refused.code, NOT_ALL, "{refused}");
    assert!(refused.stderr.contains("store is older"), "{refused}");
    let deployment = &edges.lab.deployment;
    let found = wait_problem(deployment, "store-older", "prod/idc", SHOWN);
    assert!(found["fix"].as_str().unwrap().starts_with("cfctl "), "{found}");
    assert_eq!(MeshStatus::read(&deployment.operator()).unwrap().code, UNHEALTHY);
    // Nothing is done to the edges by itself.
    let shown = deployment.ctl(&["status"]).unwrap();
    assert!(shown.stdout.contains("cfctl store accept"), "{shown}");
}

#[test]
fn an_older_store_fails_a_wait_whichever_controller_has_the_edges() {
    let mut cluster = Cluster::start("oldercl", 2, shared());
    let edge = cluster.edge(1);
    let before = version(&edge).unwrap();
    let key = "/cframe/v1/namespaces/prod";
    let saved = etcdctl(&cluster, &["get", key, "--print-value-only"]);
    for number in 1..=3 {
        let cidr = format!("10.251.{number}.0/24");
        let name = format!("r{number}");
        let add = ["route", "add", &name, "-n", "prod", "--cidr", &cidr, "--edge", edge.name()];
        cluster.ctl(0, &[&add[..], &["--wait"]].concat()).success().unwrap();
    }
    // The namespace as it was, as after a restore of a part; a whole restore needs all members stopped.
    etcdctl(&cluster, &["put", key, saved.trim()]);
    let is_back =
        || cluster.revision(0) == before.namespace && cluster.revision(1) == before.namespace;
    wait_for(SHOWN, is_back).unwrap();
    let add =
        ["route", "add", "late", "-n", "prod", "--cidr", "10.251.9.0/24", "--edge", edge.name()];
    let refused = cluster.ctl(0, &[&add[..], &["--wait", "--timeout", "20s"]].concat());
    assert_eq!(refused.code, NOT_ALL, "{refused}");
    assert!(refused.stderr.contains("store is older"), "{refused}");
    assert!(refused.stderr.contains(edge.name()), "{refused}");
    cluster.ctl(0, &["store", "accept", "--yes", "--wait"]).success().unwrap();
    let newer = |at: Version| at.epoch > before.epoch;
    wait_for(SHOWN, || version(&edge).is_some_and(newer)).unwrap();
    let healthy = || cluster.json(0, &["status"])["healthy"] == Value::Bool(true);
    wait_for(SHOWN, healthy).unwrap();
}

fn etcdctl(cluster: &Cluster, args: &[&str]) -> String {
    let mut command = cluster.hosts[0].command("etcdctl");
    command.args(["--endpoints", cluster.members[0].endpoint()]).args(args);
    crate::lab::output(command)
}
