//! Which way packets for the mesh take: rules before the edge's own, and routes of the host that are more
//! specific.

use std::net::IpAddr;

use cframe_testbed::{Host, neighbours};

use crate::hosts::support::{
    Clear, FIXED, paste_fix, problem, wait_edge_problem, wait_edge_problem_ends, wait_healthy,
    wait_problem,
};
use crate::lab::{
    DeployedEdges, DeployedPair, MS, SECOND, TIMEOUT, ip, ping, shared, wait_for, within,
};

/// The device by which a host sends to an address.
fn way(host: &Host, to: &str) -> String {
    let route = ip(host, &["route", "get", to]);
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_rule_before_the_edges_own_is_named_with_each_prefix_and_its_fix_moves_it() {
    let edges = DeployedEdges::start("bypass", shared());
    let sites = edges.lab.sites.sites();
    let clear = Clear::watch(&sites, &[]);
    let pinger = ping(&edges.hk, &edges.idc, 5 * MS);
    let host = edges.hk.host();
    let run = |script: &str| neighbours::run_script(host, script).unwrap();
    // With the site's own network, without which these rules would break the site on any host.
    run("ip route add default via 203.0.113.1 dev eth0 table 100\n\
         ip route add 172.30.0.0/16 dev eth1 table 100");
    for selectors in [
        "from 172.30.0.0/16",
        "iif eth1",
        "from 172.30.0.0/16 to 10.60.6.0/25",
        "not from 192.168.0.0/16",
        "from all ipproto icmp",
        "to 10.0.0.0/8 iif eth1",
    ] {
        run(&format!("ip rule add {selectors} lookup 100 pref 1000"));
        let found = wait_edge_problem(&edges.hk, "route-bypassed", "10.60.6.0/24");
        let text = found["text"].as_str().unwrap();
        assert!(text.contains("1000:") && text.contains("eth0"), "{selectors}: {text}");
        paste_fix(host, &found);
        wait_edge_problem_ends(&edges.hk, "route-bypassed", FIXED);
        pinger.steady(20, TIMEOUT).unwrap();
        clear.check(selectors);
        run("while ip rule del lookup 100 2>/dev/null; do :; done");
    }
    // A rule that refuses, and the main table in front.
    for (rule, family) in
        [("prohibit", ""), ("lookup main", ""), ("unreachable", "-6"), ("lookup main", "-6")]
    {
        if family == "-6" && !edges.idc.host().addresses().iter().any(|net| net.addr().is_ipv6()) {
            continue;
        }
        run(&format!("ip {family} rule add iif eth1 {rule} pref 1001"));
        let prefix = if family == "-6" { "fd00:60::/64" } else { "10.60.6.0/24" };
        // aws-hk has no IPv6 prefix, and so no packets of its own for it.
        if family != "-6" {
            let found = wait_edge_problem(&edges.hk, "route-bypassed", prefix);
            paste_fix(host, &found);
            wait_edge_problem_ends(&edges.hk, "route-bypassed", FIXED);
            pinger.steady(20, TIMEOUT).unwrap();
        }
        clear.check(rule);
        run(&format!("while ip {family} rule del iif eth1 2>/dev/null; do :; done"));
    }
}

#[test]
fn a_rule_that_is_no_concern_of_the_mesh_is_no_problem() {
    let edges = DeployedEdges::start("harmless", shared());
    let host = edges.hk.host();
    // As of kube-proxy, Cilium, Calico, Tailscale, wg-quick and the VPC CNI, on a host that lets packets pass.
    neighbours::run_script(
        host,
        "ip route add default via 203.0.113.1 dev eth0 table 100\n\
         ip rule add fwmark 0x4000/0x4000 lookup 100 pref 100\n\
         ip rule add fwmark 0x200/0xf00 lookup 100 pref 9\n\
         ip rule add fwmark 0x10000/0xffff0000 lookup 100 pref 101\n\
         ip rule add fwmark 0x80000/0xff0000 lookup 100 pref 5210\n\
         ip rule add fwmark 0x80/0x80 lookup 100 pref 1024\n\
         ip rule add fwmark 0xca6c lookup 100 pref 102\n\
         ip rule add from 192.168.7.0/24 lookup 100 pref 103\n\
         ip rule add to 198.51.100.0/24 lookup 100 pref 104",
    )
    .unwrap();
    let pinger = ping(&edges.hk, &edges.idc, 5 * MS);
    // One pass over all prefixes, and the judgement after it.
    pinger.steady(400, TIMEOUT).unwrap();
    assert!(problem(&edges.hk, "route-bypassed").is_none());
    assert!(problem(&edges.hk, "mark-dropped").is_none());
    wait_healthy(&edges.lab.deployment, TIMEOUT);
}

#[test]
fn a_more_specific_route_over_a_local_router_takes_precedence_while_it_is_there() {
    let pair = DeployedPair::start("specific", shared());
    let host = pair.dialer.host();
    let deployment = &pair.lab.deployment;
    let add = ["route", "add", "wide", "-n", "prod", "--cidr", "10.0.0.0/11", "--edge", "aws-hk"];
    deployment.ctl_ok(&add).unwrap();
    wait_for(TIMEOUT, || way(host, "10.9.0.1") == "cframe0").unwrap();
    let router = pair.dialer.site().workload().address();
    for route in [format!("10.9.0.0/16 via {router} dev eth1"), "blackhole 10.9.0.0/16".to_owned()]
    {
        host.ip(&format!("route add {route} proto bird")).unwrap();
        let is_local = || match route.starts_with("blackhole") {
            true => !ip_ok(host, "10.9.0.1"),
            false => way(host, "10.9.0.1") == "eth1",
        };
        let took = wait_for(TIMEOUT, is_local).unwrap();
        within(&format!("{route} → packets stay here"), took, SECOND);
        assert_eq!(way(host, "10.8.0.1"), "cframe0");
        let found = wait_edge_problem(&pair.dialer, "overlap-part", "10.0.0.0/11");
        assert!(found["text"].as_str().unwrap().contains("10.9.0.0/16"), "{found:#}");
        host.ip(&format!("route del {route}")).unwrap();
        let took = wait_for(TIMEOUT, || way(host, "10.9.0.1") == "cframe0").unwrap();
        within(&format!("{route} removed → the tunnel"), took, SECOND);
        wait_edge_problem_ends(&pair.dialer, "overlap-part", TIMEOUT);
    }
    // The device goes down: the kernel drops the route without a word.
    host.ip("link add d0 type veth peer name d1\nlink set d1 up\nlink set d0 up\naddr add 192.168.77.1/24 dev d0").unwrap();
    host.ip("route add 10.9.0.0/16 via 192.168.77.2").unwrap();
    wait_for(TIMEOUT, || way(host, "10.9.0.1") == "d0").unwrap();
    host.ip("link set d0 down").unwrap();
    wait_for(TIMEOUT, || way(host, "10.9.0.1") == "cframe0").unwrap();
    // Equal and wider ones do not take precedence.
    for net in ["10.0.0.0/11", "10.0.0.0/8"] {
        host.ip(&format!("route add {net} via {router} dev eth1")).unwrap();
        assert_eq!(way(host, "10.9.0.1"), "cframe0", "{net}");
        host.ip(&format!("route del {net}")).unwrap();
    }
}

fn ip_ok(host: &Host, to: &str) -> bool {
    let mut command = host.command("ip");
    command.args(["route", "get", to]);
    command.output().unwrap().status.success()
}

#[test]
fn a_network_that_appears_and_hides_a_prefix_is_a_problem_while_it_is_there() {
    let edges = DeployedEdges::start("hides", shared());
    let host = edges.sz.host();
    host.ip(
        "link add docker7 type bridge\naddr add 172.30.0.1/16 dev docker7\nlink set docker7 up",
    )
    .unwrap();
    let start = std::time::Instant::now();
    let found = wait_problem(&edges.lab.deployment, "overlap-hides", "172.30.0.0/16", TIMEOUT);
    within("network added → problem", start.elapsed(), TIMEOUT);
    assert!(found["text"].as_str().unwrap().contains("docker7"), "{found:#}");
    let log = edges.sz.process().log();
    assert!(log.lines().any(|l| l.contains("docker7") && l.contains("172.30.0.0/16")), "{log}");
    host.ip("link del docker7").unwrap();
    wait_edge_problem_ends(&edges.sz, "overlap-hides", TIMEOUT);
    wait_healthy(&edges.lab.deployment, TIMEOUT);
    ping(&edges.sz, &edges.hk, 5 * MS);
}

#[test]
fn addresses_of_a_clouds_services_inside_a_prefix_stay_on_the_host() {
    let pair = DeployedPair::start("reserved", shared());
    let host = pair.dialer.host();
    let deployment = &pair.lab.deployment;
    let add = ["route", "add", "wide", "-n", "prod", "--cidr", "100.64.0.0/10", "--edge", "aws-hk"];
    deployment.ctl_ok(&add).unwrap();
    wait_for(TIMEOUT, || way(host, "100.100.100.201") == "cframe0").unwrap();
    for service in ["100.100.100.200", "100.100.2.136", "100.100.2.138"] {
        assert_eq!(way(host, service), "eth0", "{service}");
    }
    wait_edge_problem(&pair.dialer, "reserved-prefix", "100.100.100.200/32");
}

#[test]
fn virtual_addresses_change_no_source_no_route_and_no_link() {
    let mut edges = DeployedEdges::start("virtual", shared());
    let host = edges.hk.host().clone();
    let table = edges.hk.status().unwrap()["routes"]["table"].to_string();
    let routes = || ip(&host, &["route", "show", "table", &table]);
    let before = routes();
    let pinger = ping(&edges.hk, &edges.idc, 5 * MS);
    let network: IpAddr = "172.30.0.0".parse().unwrap();
    assert!(before.contains("src 172.30."), "{network}: {before}");
    let mut monitor = host.command("ip");
    monitor.args(["monitor", "route"]);
    let monitor = host.spawn("monitor", monitor).unwrap();
    for round in 0..3 {
        for (address, device) in
            [("172.30.0.2/32", "eth1"), ("172.30.200.9/16", "eth1"), ("203.0.113.99/32", "eth0")]
        {
            host.ip(&format!("addr add {address} dev {device}")).unwrap();
            wait_for(SECOND, || ip(&host, &["-o", "addr"]).contains(address)).unwrap();
            assert_eq!(routes(), before, "{round} {address}");
            pinger.steady(20, TIMEOUT).unwrap();
            host.ip(&format!("addr del {address} dev {device}")).unwrap();
            assert_eq!(routes(), before, "{round} {address}");
        }
    }
    let log = edges.hk.process().log();
    assert!(!log.contains("the way to a peer has changed"), "{log}");
    let rewritten = monitor.log().lines().filter(|line| line.contains("cframe0")).count();
    assert_eq!(rewritten, 0, "{}", monitor.log());
    edges.hk.wait_synced().unwrap();
}
