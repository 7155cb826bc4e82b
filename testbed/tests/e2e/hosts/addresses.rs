//! What controllers say of edges, links and addresses, and how they listen.

use std::time::Duration;

use cframe_testbed::deployment::Edge;
use serde_json::Value;

use crate::lab::{DeployedEdges, HK, TIMEOUT, TestLab, output, shared, wait_for, within};

/// For a problem to appear or vanish in the status.
const LIMIT: Duration = Duration::from_secs(10);

/// Whether `cfctl status` is healthy, and its problems.
fn status(lab: &TestLab) -> (bool, Vec<Value>) {
    let found = lab.deployment.ctl(&["status", "-o", "json"]).unwrap();
    let status: Value = serde_json::from_str(&found.stdout).unwrap();
    let healthy = status["healthy"] == true;
    assert_eq!(found.code, if healthy { 0 } else { 7 }, "{status}");
    (healthy, status["problems"].as_array().unwrap().clone())
}

fn find(problems: &[Value], code: &str) -> Option<Value> {
    problems.iter().find(|group| group["code"] == code).cloned()
}

#[test]
fn an_edge_that_has_not_joined_is_one_problem_and_a_route_to_it_none() {
    let edges = DeployedEdges::start("adrjoin", shared());
    let (healthy, problems) = status(&edges.lab);
    assert!(healthy && problems.is_empty(), "{problems:?}");
    for name in ["site-10", "site-2"] {
        let cidr = format!("10.9.{}.0/24", name.len());
        let add = ["edge", "add", name, "-n", "prod", "--cidr", &cidr];
        edges.lab.deployment.ctl_ok(&add).unwrap();
    }
    let (healthy, problems) = status(&edges.lab);
    assert!(!healthy);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!((&problems[0]["code"], &problems[0]["count"]), (&"not-joined".into(), &2.into()));
    let text = edges.lab.deployment.ctl(&["status"]).unwrap().stdout;
    assert!(text.contains("2 edges have not joined yet: site-2, site-10"), "{text}");
    // Links to them are not missed.
    let found = edges.lab.deployment.ctl_json(&["status"]).unwrap();
    assert_eq!(found["namespaces"][0]["links_expected"], 3);
}

#[test]
fn a_pair_without_endpoints_is_a_problem_until_it_is_accepted() {
    let lab = TestLab::start("adrpair", shared());
    let mut sz = lab.edge(&lab.sites.aliyun_sz, &[]);
    let mut idc = lab.edge(&lab.sites.idc, &[]);
    let mut hk = lab.edge(&lab.sites.aws_hk, &[HK]);
    hk.wait_links(2).unwrap();
    for edge in [&mut sz, &mut idc] {
        edge.wait_synced().unwrap();
    }
    let seen = || find(&status(&lab).1, "no-endpoint");
    within("the pair is named", wait_for(LIMIT, || seen().is_some()).unwrap(), LIMIT);
    let text = seen().unwrap().to_string();
    assert!(text.contains("aliyun-sz") && text.contains("idc"), "{text}");
    lab.deployment
        .ctl_ok(&["edge", "set", "idc", "-n", "prod", "--no-link-to", "aliyun-sz"])
        .unwrap();
    wait_for(LIMIT, || status(&lab).0).unwrap();
    lab.deployment.ctl_ok(&["edge", "set", "idc", "-n", "prod", "--link-to-all"]).unwrap();
    assert!(!status(&lab).0);
}

#[test]
fn links_that_a_firewall_takes_down_are_named_with_both_edges() {
    let edges = DeployedEdges::start("adrlink", shared());
    // Links that have just come up have some time to settle before anything is said of them.
    let settled = |edge: &Edge| {
        let links = edge.status().unwrap()["links"].as_array().unwrap().clone();
        links.iter().all(|link| link["since_secs"].as_u64() >= Some(12))
    };
    wait_for(2 * LIMIT, || [&edges.sz, &edges.hk, &edges.idc].into_iter().all(settled)).unwrap();
    let host = edges.hk.host();
    let nft = |rules: &str| {
        let mut command = host.command("nft");
        command.arg(rules);
        output(command)
    };
    nft(
        "add table inet test { chain i { type filter hook input priority -10; udp dport 58423 drop; udp sport 58423 drop; }; }",
    );
    let named = || {
        let (healthy, problems) = status(&edges.lab);
        let text = Value::from(problems).to_string();
        !healthy && ["aws-hk", "aliyun-sz", "idc"].iter().all(|name| text.contains(name))
    };
    within("down", wait_for(2 * LIMIT, named).unwrap(), LIMIT);
    nft("delete table inet test");
    within("up", wait_for(2 * LIMIT, || status(&edges.lab).0).unwrap(), LIMIT);
}

#[test]
fn a_controller_serves_ipv4_whatever_the_default_of_ipv6_sockets_is() {
    let mut lab = TestLab::start("adrv6", shared());
    lab.sites.controller.sysctl("ipv6.bindv6only", "1").unwrap();
    lab.deployment.controller_mut().restart().unwrap();
    let mut edge = lab.edge(&lab.sites.aws_hk, &[HK]);
    edge.wait_synced().unwrap();
    let shown = lab.deployment.ctl_json(&["edge", "show", "aws-hk", "-n", "prod"]).unwrap();
    let address = shown["address"].as_str().unwrap();
    assert!(!address.contains("ffff"), "{address}");
}

#[test]
fn a_store_that_was_deleted_takes_no_writes_and_the_controller_is_not_ready() {
    let lab = TestLab::start("adrstore", shared());
    let dir = lab.net.dir().join("mesh-lab/controller");
    std::fs::rename(dir.join("store.redb"), dir.join("away")).unwrap();
    let refused = lab.deployment.ctl(&["namespace", "add", "lost"]).unwrap();
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("deleted"), "{refused:?}");
    let unready = || lab.deployment.controller().http("/readyz").is_ok_and(|(code, _)| code == 503);
    wait_for(TIMEOUT, unready).unwrap();
    assert!(find(&status(&lab).1, "store-problem").is_some());
    std::fs::rename(dir.join("away"), dir.join("store.redb")).unwrap();
    wait_for(TIMEOUT, || status(&lab).0).unwrap();
    lab.deployment.ctl_ok(&["namespace", "add", "found"]).unwrap();
}
