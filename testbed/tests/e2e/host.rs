//! What an edge changes on its host, and what it leaves behind.

use std::time::Instant;

use cframe_testbed::{Host, wait_until};

use crate::lab::{
    DeployedEdges, DeployedPair, MS, SECOND, TIMEOUT, ip, ping, shared, start_pings, wait_for,
    within,
};
use crate::traffic::canary;

/// A host's links, rules and routes, sorted, without the routes of link-local and multicast addresses.
fn routing(host: &Host) -> Vec<String> {
    let mut seen = Vec::new();
    for args in [
        &["-brief", "link"][..],
        &["rule"],
        &["-6", "rule"],
        &["route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
    ] {
        let text = ip(host, args);
        let lines = text.lines().map(str::trim_end).filter(|line| !line.contains("fe80::"));
        seen.extend(lines.filter(|line| !line.contains("ff00::/8")).map(str::to_owned));
    }
    seen.sort();
    seen
}

#[test]
fn a_removed_device_is_back_with_its_routes_within_two_seconds() {
    let mut edges = DeployedEdges::start("device", shared());
    let pinger = ping(&edges.hk, &edges.idc, 2 * MS);
    for round in 1..=3 {
        let start = Instant::now();
        edges.idc.host().ip("link del cframe0").unwrap();
        let removed = Instant::now();
        let took = removed - start + pinger.reply_after(removed, TIMEOUT).unwrap();
        within(&format!("TUN removed → traffic, round {round}"), took, 2 * SECOND);
        pinger.steady(20, TIMEOUT).unwrap();
        edges.idc.wait_synced().unwrap();
    }
}

#[test]
fn deleted_routes_come_back_and_foreign_ones_are_removed() {
    let mut edges = DeployedEdges::start("reconcile", shared());
    let table = edges.hk.status().unwrap()["routes"]["table"].to_string();
    let before = ip(edges.hk.host(), &["route", "show", "table", &table]);
    edges.hk.host().ip(&format!("route flush table {table}")).unwrap();
    edges.hk.host().ip(&format!("route add 10.99.0.0/16 dev cframe0 table {table}")).unwrap();
    let same = || ip(edges.hk.host(), &["route", "show", "table", &table]) == before;
    let took = wait_for(TIMEOUT, same).unwrap();
    within("routes flushed and a foreign one added → as before", took, 5 * SECOND);
    edges.hk.wait_synced().unwrap();
}

#[test]
fn down_removes_everything_of_the_edge_from_its_host() {
    let mut pair = DeployedPair::start("down", shared());
    let host = pair.dialer.host().clone();
    let fresh = routing(pair.lab.sites.idc.edge());
    assert!(ip(&host, &["-brief", "link"]).contains("cframe0"));
    pair.dialer.stop().unwrap();
    assert!(ip(&host, &["-brief", "link"]).contains("cframe0"), "the device stays after a stop");
    pair.dialer.run(&["down"]).unwrap().success().unwrap();
    let left = routing(&host);
    assert!(!left.iter().any(|line| line.contains("cframe")), "{left:#?}");
    // A host that never had an edge has the same rules and tables.
    let rules = |host: &Host| [ip(host, &["rule"]), ip(host, &["-6", "rule"])];
    assert_eq!(rules(&host), rules(pair.lab.sites.idc.edge()));
    let tables = |lines: &[String]| {
        let mut tables: Vec<String> = lines
            .iter()
            .filter_map(|line| line.split_once(" table ")?.1.split_whitespace().next())
            .map(str::to_owned)
            .collect();
        tables.sort();
        tables.dedup();
        tables
    };
    assert_eq!(tables(&left), tables(&fresh), "{left:#?}");
    // The edge can start again.
    pair.dialer.start().unwrap();
    pair.dialer.wait_links(1).unwrap();
    pair.dialer.wait_synced().unwrap();
}

#[test]
fn nothing_leaves_in_the_clear_when_the_edge_is_stopped_killed_or_without_device() {
    let mut pair = DeployedPair::start("clear", shared());
    let workload = pair.dialer.site().workload().clone();
    let to = pair.acceptor.site().workload().address();
    let capture = pair.dialer.site().uplink().capture().unwrap();
    let canary = canary();
    let outside = pair.dialer.site().edge().clone();
    let check_no_leak = |what: &str| {
        let socket = workload.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        for _ in 0..20 {
            // An ICMP "unreachable" is an error of the next send.
            drop(socket.send_to(&canary, (to, 9)));
        }
        let pinger = start_pings(&workload, to, MS);
        wait_until(TIMEOUT, || pinger.stats().sent >= 20).unwrap();
        assert_eq!(pinger.stop().received, 0, "{what}");
        // When the marker is in the capture, all packets before it are.
        let marker = crate::traffic::canary();
        let socket = outside.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.send_to(&marker, "198.51.100.10:9").unwrap();
        wait_until(TIMEOUT, || capture.contains(&marker).unwrap()).unwrap();
        assert!(!capture.contains(&canary).unwrap(), "{what}");
    };
    pair.dialer.process_mut().terminate(TIMEOUT).unwrap();
    check_no_leak("after SIGTERM");
    pair.dialer.start().unwrap();
    pair.dialer.wait_links(1).unwrap();
    pair.dialer.process_mut().kill9().unwrap();
    check_no_leak("after SIGKILL");
    pair.dialer.host().ip("link del cframe0").unwrap();
    check_no_leak("without the device");
    let pcap = capture.stop().unwrap();
    let inner = |packet: &cframe_testbed::Packet| {
        packet.ip().is_some_and(|ip| {
            ip[0] >> 4 == 4 && (ip[12..14] == [172, 18] || ip[16..18] == [172, 30])
        })
    };
    assert!(!pcap.packets().iter().any(inner), "an inner packet left in the clear");
}

#[test]
fn edges_of_two_namespaces_share_a_host_and_a_prefix() {
    let mut edges = DeployedEdges::start("instances", shared());
    let deployment = &edges.lab.deployment;
    deployment.ctl_ok(&["namespace", "add", "blue"]).unwrap();
    // The host of aws-hk is in both namespaces, with the same network behind it.
    let gateway = edges.hk.host().clone();
    let add = "edge add gateway -n blue --cidr 172.30.0.0/16 --endpoint 203.0.113.7:58424";
    deployment.ctl_ok(&add.split(' ').collect::<Vec<_>>()).unwrap();
    let token = deployment.token("blue", "gateway").unwrap();
    let dir = edges.lab.net.path("blue-gateway");
    let join = ["--instance", "blue", "join", "--listen", "58424", &token];
    deployment.edge_program(&gateway, &dir, &join).unwrap().success().unwrap();
    let mut command = gateway.command(deployment.programs().edge());
    command.args(["--instance", "blue", "run"]).env("CFRAME_EDGE_DATA_DIR", &dir);
    let mut blue = gateway.spawn("blue-gateway", command).unwrap();

    // A site in blue only. Its prefix overlaps that of aliyun-sz in prod.
    let site = edges.lab.net.site("blue-far").public("198.18.5.7/24").inner("10.77.0.0/16");
    let site = site.build().unwrap();
    let mut far = deployment
        .edge(&site)
        .namespace("blue")
        .name("far")
        .cidrs(&["10.77.0.0/16", "172.18.64.0/18"])
        .endpoints(&["198.18.5.7:58423"])
        .enrol()
        .unwrap();
    far.wait_links(1).unwrap_or_else(|error| panic!("{error:#}\n{}", blue.log_tail(20)));

    let workload = edges.hk.site().workload();
    for to in ["10.77.0.10", "172.18.0.10", "10.60.6.10"] {
        let to: std::net::IpAddr = to.parse().unwrap();
        let stats = workload.ping(to).count(50).run_to_end().unwrap();
        assert_eq!(stats.lost, Vec::<usize>::new(), "to {to}: {stats}");
    }
    // No packet gets from one namespace to the other.
    let across = far.site().workload().ping(edges.sz.site().workload().address());
    assert_eq!(across.count(20).run_to_end().unwrap().received, 0);
    // Each runs without the other.
    blue.terminate(TIMEOUT).unwrap();
    deployment
        .edge_program(&gateway, &dir, &["--instance", "blue", "down"])
        .unwrap()
        .success()
        .unwrap();
    let links = ip(&gateway, &["-brief", "link"]);
    assert!(!links.contains("blue") && links.contains("cframe0"), "{links}");
    edges.hk.wait_synced().unwrap();
    let stats = edges.hk.site().workload().ping(edges.sz.site().workload().address());
    assert_eq!(stats.count(20).run_to_end().unwrap().lost, Vec::<usize>::new());
}
