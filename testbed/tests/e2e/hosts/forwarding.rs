//! Whether the host forwards packets between site and mesh, measured.

use cframe_testbed::deployment::Edge;
use cframe_testbed::neighbours;

use super::support::{
    FIXED, SHOWN, UNHEALTHY, doctor, problem, problems, wait_edge_problem, wait_edge_problem_ends,
    wait_healthy,
};
use crate::lab::{HK, IDC, MS, TestLab, ping, shared};

/// A rule that keeps packets from passing, and how it is removed with what its fix has added.
struct Rule {
    name: &'static str,
    code: &'static str,
    make: &'static str,
    undo: &'static str,
    /// How many fixes it takes: each direction is a problem of its own.
    fixes: usize,
}

const fn rule(name: &'static str, make: &'static str, undo: &'static str, fixes: usize) -> Rule {
    Rule { name, code: "forward-blocked", make, undo, fixes }
}

const fn nat(name: &'static str, make: &'static str, undo: &'static str) -> Rule {
    Rule { name, code: "masqueraded", make, undo, fixes: 1 }
}

const RULES: &[Rule] = &[
    rule(
        "REJECT at the end of FORWARD",
        "iptables-nft -A FORWARD -j REJECT; ip6tables-nft -A FORWARD -j REJECT",
        "iptables-nft -F FORWARD; ip6tables-nft -F FORWARD",
        4,
    ),
    rule(
        "a policy, and a rule behind it in another table",
        "iptables-nft -P FORWARD DROP; nft add table inet late; \
         nft 'add chain inet late forward { type filter hook forward priority 50; policy drop; }'; \
         nft add rule inet late forward ip6 version 6 accept",
        "iptables-nft -P FORWARD ACCEPT; iptables-nft -F FORWARD; nft delete table inet late",
        4,
    ),
    rule(
        "REJECT of iptables-legacy",
        "iptables-legacy -A FORWARD -j REJECT",
        "iptables-legacy -F FORWARD",
        2,
    ),
    rule(
        "a drop before routing in iptables-legacy",
        "iptables-legacy -t raw -A PREROUTING -i cframe0 -j DROP",
        "iptables-legacy -t raw -F PREROUTING",
        1,
    ),
    rule(
        "a drop after routing in a table of its own",
        "nft add table ip own; nft 'add chain ip own post { type filter hook postrouting priority 0; }'; \
         nft add rule ip own post oifname eth1 ip saddr 10.60.6.0/24 drop",
        "nft delete table ip own",
        1,
    ),
    rule(
        "docker's drop before routing, for one address",
        "iptables-nft -t raw -A PREROUTING -d 172.30.0.10 ! -i eth1 -j DROP",
        "iptables-nft -t raw -F PREROUTING",
        1,
    ),
    rule(
        "a drop in a chain of docker under the policy ACCEPT",
        "iptables-nft -N DOCKER; iptables-nft -A FORWARD -o eth1 -j DOCKER; \
         iptables-nft -A DOCKER ! -i eth1 -o eth1 -j DROP",
        "iptables-nft -F FORWARD; iptables-nft -F DOCKER; iptables-nft -X DOCKER",
        1,
    ),
    rule(
        "IPv6 in mangle",
        "ip6tables-nft -t mangle -A FORWARD -o cframe0 -j DROP",
        "ip6tables-nft -t mangle -F FORWARD",
        1,
    ),
    rule(
        "a drop at the device by which packets leave",
        "nft add table netdev own; nft 'add chain netdev own out { type filter hook egress device eth1 priority 0; }'; \
         nft add rule netdev own out ip daddr 172.30.0.0/16 drop",
        "nft delete table netdev own",
        1,
    ),
    rule("TCP alone", "iptables-nft -A FORWARD -p tcp -j DROP", "iptables-nft -F FORWARD", 2),
    rule(
        "large packets alone",
        "iptables-nft -A FORWARD -m length --length 1200:65535 -j DROP",
        "iptables-nft -F FORWARD",
        2,
    ),
    rule(
        "another destination",
        "nft add table ip own; nft 'add chain ip own pre { type nat hook prerouting priority -100; }'; \
         nft add rule ip own pre ip daddr 10.60.6.0/24 dnat to 198.51.100.10",
        "nft delete table ip own",
        1,
    ),
    nat(
        "masquerading of the site",
        "iptables-nft -t nat -A POSTROUTING -s 172.30.0.0/16 -j MASQUERADE",
        "iptables-nft -t nat -F POSTROUTING",
    ),
    nat(
        "masquerading of everything by another table",
        "nft add table ip own; nft 'add chain ip own post { type nat hook postrouting priority 100; }'; \
         nft add rule ip own post masquerade",
        "nft delete table ip own",
    ),
    nat(
        "masquerading by iptables-legacy",
        "iptables-legacy -t nat -A POSTROUTING -j MASQUERADE",
        "iptables-legacy -t nat -F POSTROUTING",
    ),
];

/// Two gateways with both families, whose workloads have talked to each other.
struct Pair {
    hk: Edge,
    idc: Edge,
    lab: TestLab,
}

fn start(name: &str) -> Pair {
    let lab = TestLab::start(name, shared());
    lab.net.add_network(&lab.sites.aws_hk, "fd00:30::/64").unwrap();
    let enrol = |site, endpoint: &str, cidrs: &[&str]| {
        lab.deployment.edge(site).endpoints(&[endpoint]).cidrs(cidrs).enrol().unwrap()
    };
    let mut hk = enrol(&lab.sites.aws_hk, HK, &["172.30.0.0/16", "fd00:30::/64"]);
    let mut idc = enrol(&lab.sites.idc, IDC, &["10.60.6.0/24", "fd00:60::/64"]);
    for edge in [&mut hk, &mut idc] {
        edge.wait_links(1).unwrap();
        edge.wait_synced().unwrap();
    }
    // The gateways know hosts of their sites from now on.
    ping(&hk, &idc, 20 * MS).stop();
    wait_healthy(&lab.deployment, SHOWN);
    Pair { hk, idc, lab }
}

fn run(edge: &Edge, script: &str) {
    neighbours::run_script(edge.host(), &script.replace("; ", "\n")).unwrap();
}

/// Pastes fixes until no problem of this code is left, and returns how many.
fn paste_all(edge: &Edge, code: &str) -> usize {
    let mut pasted = Vec::new();
    while let Some(found) = problem(edge, code) {
        let fix = found["fix"].as_str().unwrap_or_else(|| panic!("no fix: {found:#}")).to_owned();
        assert!(!pasted.contains(&fix), "{fix} did not help: {:#?}", problems(edge));
        let output = edge.shell(&fix).unwrap();
        assert_eq!(output.code, 0, "{fix}: {output}");
        pasted.push(fix.clone());
        // Another problem may take its place: what a later chain drops was not seen before.
        crate::lab::wait_for(FIXED, || {
            problem(edge, code).is_none_or(|now| now["fix"] != fix.as_str())
        })
        .unwrap_or_else(|_| panic!("{fix} did not help: {:#?}", problems(edge)));
    }
    pasted.len()
}

#[test]
fn each_rule_that_keeps_packets_from_passing_is_named_and_its_fix_lets_them_pass() {
    let Pair { hk, idc, lab } = start("forward");
    for Rule { name, code, make, undo, fixes } in RULES {
        println!("{name}");
        run(&hk, make);
        let found = wait_edge_problem(&hk, code, "");
        println!("  {}\n  → {}", found["text"], found["fix"]);
        let (exit, report) = doctor(&hk);
        assert_eq!(exit, UNHEALTHY, "{name}: {report:#}");
        let pasted = paste_all(&hk, code);
        assert!((1..=*fixes).contains(&pasted), "{name}: {pasted} fixes");
        ping(&idc, &hk, 20 * MS).stop();
        ping(&hk, &idc, 20 * MS).stop();
        assert_eq!(doctor(&hk).0, 0, "{name}: {:#?}", problems(&hk));
        run(&hk, undo);
        wait_healthy(&lab.deployment, SHOWN);
    }
}

#[test]
fn a_firewall_that_drops_the_meshs_own_packets_is_named() {
    let Pair { hk, lab, idc: _idc } = start("portfw");
    for (chain, undo) in [("INPUT --dport", "-F INPUT"), ("OUTPUT --sport", "-F OUTPUT")] {
        let (chain, port) = chain.split_once(' ').unwrap();
        run(&hk, &format!("iptables-nft -A {chain} -p udp {port} 58423 -j DROP"));
        let found = wait_edge_problem(&hk, "port-blocked", "");
        let output = hk.shell(found["fix"].as_str().unwrap()).unwrap();
        assert_eq!(output.code, 0, "{output}");
        wait_edge_problem_ends(&hk, "port-blocked", FIXED);
        run(&hk, &format!("iptables-nft {undo}"));
        wait_healthy(&lab.deployment, 3 * SHOWN);
    }
}

#[test]
fn rules_that_let_packets_pass_are_no_problem_and_some_services_alone_are_a_warning() {
    let Pair { hk, lab, idc: _idc } = start("allowed");
    run(
        &hk,
        "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP; \
         iptables-nft -A FORWARD -i cframe0 -j ACCEPT; iptables-nft -A FORWARD -o cframe0 -j ACCEPT; \
         ip6tables-nft -A FORWARD -i cframe0 -j ACCEPT; ip6tables-nft -A FORWARD -o cframe0 -j ACCEPT; \
         iptables-nft -A FORWARD -j REJECT; iptables-nft -t nat -A POSTROUTING -o eth0 -j MASQUERADE; \
         iptables-nft -P INPUT DROP; iptables-nft -A INPUT -p udp --dport 58423 -j ACCEPT; \
         iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    );
    for _ in 0..3 {
        let (exit, report) = doctor(&hk);
        assert_eq!(exit, 0, "{report:#}");
        assert!(problem(&hk, "forward-blocked").is_none(), "{:#?}", problems(&hk));
    }
    // What the measurement itself is made with is changed by another program, such as NetworkManager.
    for change in
        ["ip link set $TAP down", "tc qdisc del dev $TAP ingress", "ip link del $TAP", "true"]
    {
        let tap = "TAP=$(ip -br link | sed -n 's/^\\(cfp-[0-9a-f]*\\).*/\\1/p')";
        run(&hk, &format!("{tap}; test -n \"$TAP\"; {change}"));
        for _ in 0..4 {
            let (exit, report) = doctor(&hk);
            assert_eq!(exit, 0, "{change}: {report:#}");
            for code in ["forward-blocked", "not-measured"] {
                assert!(problem(&hk, code).is_none(), "{change}: {:#?}", problems(&hk));
            }
        }
    }
    // A LAN whose cable is out.
    run(
        &hk,
        "ip link add lan9 type veth peer name end9; ip addr add 172.30.99.1/24 dev lan9; \
         ip link set lan9 up",
    );
    wait_edge_problem(&hk, "lan-down", "lan9");
    assert_eq!(doctor(&hk).0, UNHEALTHY);
    run(&hk, "ip link set end9 up");
    wait_edge_problem_ends(&hk, "lan-down", FIXED);
    run(&hk, "ip link del lan9");
    run(
        &hk,
        "iptables-nft -F FORWARD; iptables-nft -A FORWARD -p icmp -j ACCEPT; \
         iptables-nft -A FORWARD -p tcp --dport 9443 -j ACCEPT; \
         iptables-nft -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    );
    let found = wait_edge_problem(&hk, "forward-partly", "");
    assert_eq!(found["severity"], "warning");
    assert!(problem(&hk, "forward-blocked").is_none(), "{:#?}", problems(&hk));
    wait_healthy(&lab.deployment, SHOWN);
}
