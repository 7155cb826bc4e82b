//! What controllers say of edges, links and addresses, and how they listen.

use std::time::Duration;

use cframe_testbed::deployment::{Deployment, Edge, http_get};
use cframe_testbed::{Host, Lab, Site, ThreeSites, privilege};
use serde_json::Value;

use crate::lab::{DeployedEdges, HK, IDC, TIMEOUT, TestLab, output, shared, wait_for, within};

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
fn every_pair_without_a_path_is_named_and_each_can_be_accepted() {
    let lab = TestLab::start("adrpairs", shared());
    let mut edges =
        [&lab.sites.aliyun_sz, &lab.sites.aws_hk, &lab.sites.idc].map(|site| lab.edge(site, &[]));
    edges.iter_mut().for_each(|edge| edge.wait_synced().unwrap());
    let count = |wanted: u64| {
        let named = || {
            find(&status(&lab).1, "no-endpoint").map_or(0, |group| group["count"].as_u64().unwrap())
        };
        within(&format!("{wanted} pairs"), wait_for(LIMIT, || named() == wanted).unwrap(), LIMIT);
    };
    let set = |edge: &str, args: &[&str]| {
        lab.deployment.ctl_ok(&[&["edge", "set", edge, "-n", "prod"], args].concat()).unwrap();
    };
    count(3);
    set("idc", &["--no-link-to", "aliyun-sz"]);
    count(2);
    // It is the same pair from its other end.
    set("aliyun-sz", &["--no-link-to", "idc,aws-hk"]);
    count(1);
    set("aws-hk", &["--endpoint", HK]);
    wait_for(LIMIT, || status(&lab).0).unwrap();
    set("aws-hk", &["--no-endpoint"]);
    set("aliyun-sz", &["--link-to-all"]);
    // Links that are up stay up; the accepted pair is still accepted at its other end.
    wait_for(LIMIT, || status(&lab).0).unwrap();
    set("idc", &["--link-to-all"]);
    count(1);
}

/// The controller and its edges after a change of the kernel's IPv6 settings on all hosts.
fn serve_with(name: &str, settings: &[(&str, &str)], listen: &str) {
    let mut net = Lab::new(name).unwrap();
    let sites = ThreeSites::build(&mut net, None).unwrap();
    let hosts: [&Host; 3] = [&sites.controller, sites.aws_hk.edge(), sites.idc.edge()];
    for host in hosts {
        for (key, value) in settings {
            host.sysctl(key, value).unwrap();
        }
    }
    let config = format!(
        "control_listen = \"{listen}:58422\"\nenroll_listen = \"{listen}:58421\"\nmetrics_listen = \"{listen}:9464\"\n"
    );
    let deployment =
        Deployment::start_or_resume("lab", net.dir(), &sites.controller, &config).unwrap();
    deployment.ctl_ok(&["namespace", "add", "prod"]).unwrap();
    let metrics = format!("{listen}:9465");
    let edge = |site: &Site, endpoint: &str| {
        let args = ["--metrics-listen", &metrics];
        // Nobody has IPv6 networks where IPv6 is off.
        let networks = site.edge().addresses().into_iter().filter(|net| net.addr().is_ipv4());
        let networks: Vec<String> = networks.map(|net| net.trunc().to_string()).collect();
        let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
        deployment.edge(site).cidrs(&networks).endpoints(&[endpoint]).args(&args).enrol().unwrap()
    };
    let mut edges = [edge(&sites.aws_hk, HK), edge(&sites.idc, IDC)];
    for edge in &mut edges {
        edge.wait_links(1).unwrap();
        edge.wait_synced().unwrap();
        // From another host, by IPv4.
        let address = edge.site().uplink().addresses()[0].addr();
        let from = &sites.controller;
        let text = from.enter(|| http_get((address, 9465).into(), "/metrics")).unwrap().unwrap().1;
        assert!(text.contains("cframe_edge_link_up") && !text.contains("ffff"), "{text}");
    }
    let address = sites.controller.address();
    let get = |path: &str| sites.aws_hk.edge().enter(|| http_get((address, 9464).into(), path));
    let (code, metrics) = get("/metrics").unwrap().unwrap();
    assert_eq!(code, 200);
    // Mapped addresses are nobody's business.
    let shown: Vec<String> = [
        &["status"][..],
        &["edge", "list", "-n", "prod"],
        &["edge", "show", "aws-hk", "-n", "prod"],
        &["controller", "list"],
        &["audit", "-A", "--limit", "0"],
    ]
    .iter()
    .map(|args| deployment.ctl_json(args).unwrap().to_string())
    .collect();
    assert!(shown[2].contains("\"203.0.113.7:"), "{}", shown[2]);
    let logs = edges.iter().map(|edge| edge.process().log());
    let logs = logs.chain([deployment.controller().process().log()]);
    for text in shown.into_iter().chain(logs).chain([metrics]) {
        assert!(!text.contains("::ffff:"), "{text}");
    }
}

#[test]
fn a_controller_and_edges_serve_ipv4_whatever_the_hosts_settings_for_ipv6_are() {
    privilege::ensure().unwrap();
    let _share = shared();
    let off = [("ipv6.conf.all.disable_ipv6", "1"), ("ipv6.conf.default.disable_ipv6", "1")];
    for (name, settings, listen) in [
        ("adrv6only", &[("ipv6.bindv6only", "1")][..], "[::]"),
        ("adrno6", &off, "[::]"),
        ("adrno6v4", &off, "0.0.0.0"),
        ("adrv6v4", &[("ipv6.bindv6only", "1")], "0.0.0.0"),
    ] {
        serve_with(name, settings, listen);
    }
}

#[test]
fn a_revoked_edge_is_called_revoked_everywhere() {
    let edges = DeployedEdges::start("adrrev", shared());
    let deployment = &edges.lab.deployment;
    deployment.ctl_ok(&["cert", "revoke", "--edge", "idc", "-n", "prod", "--yes"]).unwrap();
    let named = || {
        let (healthy, problems) = status(&edges.lab);
        let codes: Vec<&Value> = problems.iter().map(|group| &group["code"]).collect();
        !healthy && codes == [&Value::from("edge-revoked")]
    };
    within("revoked → named, and nothing else", wait_for(LIMIT, named).unwrap(), LIMIT);
    let show = ["edge", "show", "idc", "-n", "prod"];
    for args in [&show[..], &["edge", "list", "-n", "prod"], &["status"]] {
        let shown = deployment.ctl(args).unwrap().stdout;
        assert!(shown.contains("revoked"), "{args:?}: {shown}");
        let line = shown.lines().find(|line| line.contains("idc")).unwrap();
        assert!(!line.contains("offline"), "{args:?}: {line}");
    }
    for edge in [&edges.sz, &edges.hk] {
        // It is no problem of theirs, and they do not miss its link.
        let well = || edge.run(&["doctor"]).unwrap().code == 0;
        wait_for(LIMIT, well).unwrap();
        let shown = edge.run(&["status"]).unwrap().stdout;
        let line = shown.lines().find(|line| line.starts_with("idc"));
        assert!(line.is_some_and(|line| line.contains("revoked")), "{shown}");
    }
    // Whether it runs or not.
    drop(edges.idc);
    let still = || find(&status(&edges.lab).1, "edge-revoked").is_some();
    assert!(still() && find(&status(&edges.lab).1, "edge-offline").is_none());
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
