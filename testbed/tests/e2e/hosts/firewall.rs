//! The edge's own firewall table: it is kept, and holds whatever routing does.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use cframe_testbed::deployment::Edge;
use cframe_testbed::{Capture, Host, wait_until};

use super::support::{doctor, problems};
use crate::lab::{
    DeployedPair, MS, SECOND, TIMEOUT, TestLab, ip, output, shared, start_pings, wait_for, within,
};
use crate::traffic::canary;

const TABLE: &str = "inet cframe-cframe0";

/// The output of `nft` on a host; empty if it fails.
fn nft(host: &Host, args: &[&str]) -> String {
    let mut command = host.command("nft");
    command.args(args);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

fn table(host: &Host) -> String {
    let mut args = vec!["list", "table"];
    args.extend(TABLE.split(' '));
    nft(host, &args)
}

/// What leaves by a site's uplink, compared with what a workload sends.
struct Uplink {
    capture: Capture,
    workload: Host,
    edge: Host,
}

impl Uplink {
    fn of(site: &cframe_testbed::Site) -> Self {
        let capture = site.uplink().capture().unwrap();
        Self { capture, workload: site.workload().clone(), edge: site.edge().clone() }
    }

    /// Sends datagrams and pings from the workload and from the gateway itself, and returns whether one of
    /// them left by the uplink as it is.
    fn leaks(&self, to: IpAddr) -> bool {
        let content = canary();
        for host in [&self.workload, &self.edge] {
            send(host, to, &content);
        }
        let pinger = start_pings(&self.workload, to, MS);
        wait_until(TIMEOUT, || pinger.stats().sent >= 20).unwrap();
        pinger.stop();
        self.wait_for_marker();
        let to: Vec<u8> = match to {
            IpAddr::V4(to) => to.octets().to_vec(),
            IpAddr::V6(to) => to.octets().to_vec(),
        };
        let inner = |packet: &cframe_testbed::Packet| {
            packet.ip().is_some_and(|ip| match ip[0] >> 4 {
                4 => ip[16..20] == to[..],
                _ => ip[24..40] == to[..],
            })
        };
        let pcap = self.capture.pcap().unwrap();
        pcap.contains(&content) || pcap.packets().iter().any(inner)
    }

    /// When the marker is in the capture, all packets before it are.
    fn wait_for_marker(&self) {
        let marker = canary();
        send(&self.edge, "198.51.100.10".parse().unwrap(), &marker);
        wait_until(TIMEOUT, || self.capture.contains(&marker).unwrap()).unwrap();
    }
}

fn send(host: &Host, to: IpAddr, content: &[u8]) {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = host.enter(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    for _ in 0..20 {
        // An ICMP "unreachable" is an error of the next send.
        drop(socket.send_to(content, (to, 9)));
    }
}

/// Adds a second uplink's table with a default route, and a rule that comes before all others.
fn prefer_another_table(host: &Host, selector: &str) {
    let gateway = ip(host, &["-4", "route", "show", "default"]);
    let gateway = gateway.trim().strip_prefix("default ").unwrap().to_owned();
    host.ip(&format!("route add default {gateway} table 100")).unwrap();
    host.ip(&format!("rule add {selector} lookup 100 pref 10")).unwrap();
}

/// The address of the acceptor's workload.
fn far(pair: &DeployedPair) -> IpAddr {
    pair.acceptor.site().workload().address()
}

#[test]
fn a_rule_before_the_edges_own_does_not_make_packets_leave_in_the_clear() {
    let pair = DeployedPair::start("fw-rule", shared());
    let uplink = Uplink::of(pair.dialer.site());
    let host = pair.dialer.host();
    pair.ping(MS).stop();
    // A rule that gives flows to a flowtable is in this hook: after it, packets pass no other one.
    host.netns()
        .nft(
            "table inet flows {\ncounter seen {\n}\nchain take {\n\
             type filter hook forward priority -400;\n\
             iifname eth1 oifname != cframe0 ip daddr 172.30.0.0/16 counter name seen\n}\n}\n",
        )
        .unwrap();
    assert!(!uplink.leaks(far(&pair)));
    prefer_another_table(host, "from 172.18.0.0/16");
    assert!(!uplink.leaks(far(&pair)), "a rule for the site's packets");
    host.ip("rule add from all lookup 100 pref 9").unwrap();
    assert!(!uplink.leaks(far(&pair)), "a rule for all packets");
    let seen = nft(host, &["list", "counters", "table", "inet", "flows"]);
    assert!(seen.contains("packets 0 "), "{seen}");
    // The edge's own packets pass, and so does everything that is not for the mesh.
    uplink.wait_for_marker();
    host.ip("rule del pref 9\nrule del pref 10").unwrap();
    pair.ping(MS).stop();
    let dropped = nft(host, &["list", "counters", "table", "inet", "cframe-cframe0"]);
    assert!(!dropped.contains("leaks {\n\t\tpackets 0 "), "{dropped}");
}

#[test]
fn a_mark_or_a_translated_destination_does_not_make_packets_leave_in_the_clear() {
    let pair = DeployedPair::start("fw-mark", shared());
    let uplink = Uplink::of(pair.dialer.site());
    let host = pair.dialer.host();
    prefer_another_table(host, "fwmark 0x77");
    host.netns()
        .nft(
            "table ip other {\n\
             chain marked { type filter hook prerouting priority mangle; meta mark set 0x77; }\n\
             chain own { type route hook output priority mangle; meta mark & 0xff000000 == 0 meta mark set 0x77; }\n\
             chain translated { type nat hook prerouting priority dstnat; ip daddr 10.99.0.1 dnat to 172.30.0.10; }\n\
             }\n",
        )
        .unwrap();
    assert!(!uplink.leaks(far(&pair)), "marked by another program");
    let content = canary();
    send(&uplink.workload, "10.99.0.1".parse().unwrap(), &content);
    uplink.wait_for_marker();
    assert!(!uplink.capture.contains(&content).unwrap(), "translated by another program");
    assert!(
        nft(host, &["list", "table", "ip", "other"]).contains("dnat"),
        "not touched by the edge"
    );
}

#[test]
fn the_table_is_back_within_a_second_when_it_or_a_part_of_it_is_removed() {
    let lab = TestLab::start("fw-kept", shared());
    let acceptor = lab.edge(&lab.sites.aws_hk, &[crate::lab::HK]);
    let mut edge =
        lab.deployment.edge(&lab.sites.aliyun_sz).endpoints(&[]).args(&["--snat"]).enrol().unwrap();
    edge.wait_links(1).unwrap();
    edge.wait_synced().unwrap();
    let host = edge.host().clone();
    host.netns()
        .nft("table ip other {\nchain forward {\ntype filter hook forward priority 0;\n}\n}\n")
        .unwrap();
    let whole = |text: &str| {
        text.contains("masquerade")
            && text.contains("172.30.0.0 : goto foreign")
            && text.contains("oifname \"lo\"")
    };
    wait_for(TIMEOUT, || whole(&table(&host))).unwrap();
    let chain = |chain: &str| format!("flush chain {TABLE} {chain}");
    for fault in [
        "flush ruleset".to_owned(),
        format!("delete table {TABLE}"),
        format!("flush table {TABLE}"),
        chain("masquerading"),
        chain("guard"),
        format!("delete element {TABLE} v4-16 {{ 172.30.0.0 : goto foreign }}"),
        format!("insert rule {TABLE} guard accept"),
    ] {
        // Each is a fault of its own, and not one that comes again at once.
        let mut command = host.command("nft");
        command.arg(&fault);
        output(command);
        let broken = Instant::now();
        let repaired = || {
            let text = table(&host);
            whole(&text) && !text.contains("guard {\n\t\ttype filter hook postrouting priority 400; policy accept;\n\t\taccept")
        };
        wait_for(TIMEOUT, repaired).unwrap_or_else(|_| panic!("{fault}: {}", table(&host)));
        // Repairs that follow each other soon are slowed down.
        within(&fault, broken.elapsed(), 3 * SECOND);
    }
    drop(acceptor);
}

/// A program that deletes the table as soon as it sees it.
fn deleter(host: &Host) -> cframe_testbed::Process {
    let mut command = host.command("sh");
    command.args([
        "-c",
        &format!("while :; do nft delete table {TABLE} 2>/dev/null; sleep 0.02; done"),
    ]);
    host.spawn("deleter", command).unwrap()
}

#[test]
fn a_program_that_deletes_the_table_at_once_is_answered_ever_more_slowly_and_nothing_leaves() {
    let pair = DeployedPair::start("fw-undone", shared());
    let uplink = Uplink::of(pair.dialer.site());
    let host = pair.dialer.host();
    let mut program = deleter(host);
    let cpu = pair.dialer.process().cpu_seconds().unwrap();
    let deadline = Instant::now() + 12 * SECOND;
    let mut leaked = false;
    while Instant::now() < deadline {
        leaked |= uplink.leaks(far(&pair));
    }
    assert!(!leaked, "routes hold without the table");
    let used = pair.dialer.process().cpu_seconds().unwrap() - cpu;
    assert!(used < 2.0, "{used} s of CPU");
    let lines = pair.dialer.process().log().lines().filter(|line| line.contains("table")).count();
    assert!(lines < 10, "{lines} lines in the log");
    program.kill9().unwrap();
    let took = wait_for(TIMEOUT, || table(host).contains("guard")).unwrap();
    within("the program ends → the table is back", took, 6 * SECOND);
    prefer_another_table(host, "from all");
    assert!(!uplink.leaks(far(&pair)));
}

/// As after a reboot: the host forwards packets and has nothing of the edge but its files.
fn reboot(edge: &mut Edge) {
    edge.process_mut().kill9().unwrap();
    edge.run(&["down"]).unwrap().success().unwrap();
    let host = edge.host();
    assert!(table(host).is_empty(), "{}", table(host));
    host.sysctl("ipv4.ip_forward", "1").unwrap();
    host.sysctl("ipv6.conf.all.forwarding", "1").unwrap();
}

#[test]
fn after_a_reboot_nothing_leaves_in_the_clear_before_the_edge_runs_or_if_it_cannot() {
    let mut pair = DeployedPair::start("fw-reboot", shared());
    let uplink = Uplink::of(pair.dialer.site());
    let (to, host) = (far(&pair), pair.dialer.host().clone());
    let elsewhere: IpAddr = "198.51.100.10".parse().unwrap();
    reboot(&mut pair.dialer);
    let key = pair.dialer.dir().join("key.pem");
    assert!(
        key.exists(),
        "{:?}",
        std::fs::read_dir(pair.dialer.dir()).unwrap().collect::<Vec<_>>()
    );
    std::fs::write(&key, "damaged").unwrap();
    pair.dialer.run(&["guard"]).unwrap().success().unwrap();
    assert!(!uplink.leaks(to), "after cframe-edge guard");
    // Other packets are forwarded as before.
    let content = canary();
    send(&uplink.workload, elsewhere, &content);
    wait_until(TIMEOUT, || uplink.capture.contains(&content).unwrap()).unwrap();

    // The same without the unit: by the edge that cannot start.
    pair.dialer.run(&["down"]).unwrap().success().unwrap();
    assert!(table(&host).is_empty());
    let failed = pair.dialer.run(&["run"]).unwrap();
    assert!(failed.success().is_err());
    assert!(!uplink.leaks(to), "after a start that failed");
    assert!(pair.dialer.run(&["--instance", "eth1", "guard"]).unwrap().success().is_err());
}

#[test]
fn uncovered_addresses_of_the_site_leave_only_by_a_device_with_an_address_of_the_site() {
    let lab = TestLab::start("fw-own", shared());
    let acceptor = lab.edge(&lab.sites.aws_hk, &[crate::lab::HK]);
    let enrolment = lab.deployment.edge(&lab.sites.idc).endpoints(&[crate::lab::IDC]);
    let mut edge = enrolment.cidrs(&["10.60.0.0/16", "fd00:60::/32"]).enrol().unwrap();
    edge.wait_links(1).unwrap();
    edge.wait_synced().unwrap();
    let host = edge.host().clone();
    wait_for(TIMEOUT, || table(&host).contains("10.60.0.0 : goto own4")).unwrap();
    let uplink = Uplink::of(edge.site());
    let inside: IpAddr = "10.60.99.1".parse().unwrap();
    let inside6: IpAddr = "fd00:60:9::1".parse().unwrap();
    assert!(!uplink.leaks(inside) && !uplink.leaks(inside6));
    // The covered part passes.
    let stats = host.ping(edge.site().workload().address()).count(5).run_to_end().unwrap();
    assert_eq!(stats.received, 5);
    // A VPC: the uplink has an address of the site, and its router delivers the rest.
    host.ip("addr add 10.60.50.7/24 dev eth0").unwrap();
    wait_for(TIMEOUT, || uplink.leaks(inside)).unwrap();
    drop(acceptor);
}

#[test]
fn a_part_of_the_site_behind_a_router_is_reached_by_its_route_alone() {
    let lab = TestLab::start("fw-router", shared());
    let acceptor = lab.edge(&lab.sites.aws_hk, &[crate::lab::HK]);
    // The network between gateway and router is not of the mesh.
    let router = lab.net.add_network(&lab.sites.idc, "192.168.50.0/24").unwrap();
    router.ip("addr add 10.61.4.1/32 dev lo").unwrap();
    let enrolment = lab.deployment.edge(&lab.sites.idc).endpoints(&[crate::lab::IDC]);
    let mut edge = enrolment.cidrs(&["10.60.6.0/24", "10.61.0.0/16"]).enrol().unwrap();
    edge.wait_links(1).unwrap();
    edge.wait_synced().unwrap();
    let host = edge.host().clone();
    let uplink = Uplink::of(edge.site());
    let inside: IpAddr = "10.61.4.1".parse().unwrap();
    wait_for(TIMEOUT, || table(&host).contains("10.61.0.0 : goto own4")).unwrap();
    for route in [
        "10.61.0.0/16 via 192.168.50.10 proto bird",
        "10.61.4.0/22 via 192.168.50.10",
        "10.32.0.0/11 via 192.168.50.10",
        "10.61.0.0/16 nexthop via 192.168.50.10 dev eth2 nexthop via 192.168.50.10 dev eth2 weight 2",
    ] {
        assert!(!uplink.leaks(inside), "before {route}: {}", table(&host));
        host.ip(&format!("route add {route}")).unwrap();
        let pinger = start_pings(acceptor.site().workload(), inside, 5 * MS);
        pinger
            .steady(40, TIMEOUT)
            .unwrap_or_else(|error| panic!("{route}: {error}: {}", table(&host)));
        pinger.stop();
        assert_eq!(doctor(&edge).0, 0, "{route}: {:#?}", problems(&edge));
        let route = route.split(" proto").next().unwrap();
        host.ip(&format!("route del {}", route.split(" nexthop").next().unwrap())).unwrap();
    }
    assert!(!uplink.leaks(inside), "without a route again");
}

#[test]
fn an_edit_is_in_the_table_soon_and_down_removes_only_that() {
    let mut pair = DeployedPair::start("fw-edit", shared());
    let host = pair.dialer.host().clone();
    host.netns().nft("table inet cframe-other {\nchain c {\n}\n}\n").unwrap();
    for (change, expected) in [("add", true), ("del", false)] {
        let mut args = vec!["route", change, "pods", "-n", "prod"];
        if expected {
            args.extend(["--cidr", "10.44.0.0/16", "--edge", "aws-hk"]);
        } else {
            args.push("--yes");
        }
        pair.lab.deployment.ctl_ok(&args).unwrap();
        let applied = || table(&host).contains("10.44.0.0 : goto foreign") == expected;
        let took = wait_for(TIMEOUT, applied).unwrap();
        within(change, took, Duration::from_secs(2));
    }
    // A route that takes precedence over another site's prefix, as of BIRD or wg-quick.
    let wide = ["route", "add", "wide", "-n", "prod", "--cidr", "10.0.0.0/11", "--edge", "aws-hk"];
    pair.lab.deployment.ctl_ok(&wide).unwrap();
    let uplink = Uplink::of(pair.dialer.site());
    host.ip("link add wg7 type veth peer name wg8\nlink set wg8 up\nlink set wg7 up\nroute add 10.9.0.0/16 dev wg7").unwrap();
    host.ip("route add 10.8.0.0/16 via 172.18.0.10 dev eth1 proto bird").unwrap();
    let both = |text: &str| text.contains("10.9.0.0 : ") && text.contains("10.8.0.0 : ");
    wait_for(TIMEOUT, || both(&table(&host))).unwrap();
    pair.dialer.stop().unwrap();
    assert!(table(&host).contains("172.30.0.0 : goto foreign"), "it stays when the edge stops");
    // What was local then has no other way later, when nobody changes the table.
    host.ip("link del wg7\nroute del 10.8.0.0/16\nlink set eth1 down").unwrap();
    for to in ["10.9.0.1", "10.8.0.1", "172.18.0.10"] {
        let content = canary();
        send(&host, to.parse().unwrap(), &content);
        uplink.wait_for_marker();
        assert!(!uplink.capture.contains(&content).unwrap(), "{to}: {}", table(&host));
    }
    pair.dialer.run(&["down"]).unwrap().success().unwrap();
    assert!(table(&host).is_empty());
    assert!(!nft(&host, &["list", "table", "inet", "cframe-other"]).is_empty());
}
