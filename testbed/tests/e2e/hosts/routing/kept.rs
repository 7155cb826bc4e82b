//! What the edge has set and other programs change: rules, routes, forwarding, MTU, mark.

use std::time::{Duration, Instant};

use cframe_testbed::{Host, neighbours};

use crate::hosts::support::{
    Clear, FIXED, paste_fix, wait_edge_problem, wait_edge_problem_ends, wait_healthy,
};
use crate::lab::{
    DeployedPair, HK, MS, SECOND, TIMEOUT, TestLab, figure, ip, output, ping, shared, wait_for,
    within,
};

fn sysctl(host: &Host, key: &str) -> String {
    let mut command = host.command("sysctl");
    command.args(["-n", key]);
    output(command).trim().to_owned()
}

fn run(host: &Host, script: &str) {
    neighbours::run_script(host, script).unwrap();
}

#[test]
fn forwarding_is_switched_on_again_within_a_second() {
    let pair = DeployedPair::start("forwarding", shared());
    let pinger = ping(&pair.dialer, &pair.acceptor, 5 * MS);
    let host = pair.dialer.host();
    for key in
        ["ip_forward", "conf.eth1.forwarding", "conf.cframe0.forwarding", "conf.all.forwarding"]
    {
        let key = format!("net.ipv4.{key}");
        run(host, &format!("sysctl -qw {key}=0"));
        let took = wait_for(TIMEOUT, || sysctl(host, &key) == "1").unwrap();
        within(&format!("{key}=0 → 1"), took, SECOND);
        pinger.steady(20, TIMEOUT).unwrap();
    }
    let log = pair.dialer.process().log();
    for key in ["ip_forward", "eth1/forwarding", "cframe0/forwarding"] {
        let line = |line: &str| line.contains(key) && line.contains("switched on again");
        assert!(log.lines().any(line), "{key}: {log}");
    }
}

#[test]
fn where_forwarding_is_left_alone_it_is_named_and_the_fix_ends_it() {
    let lab = TestLab::start("leave", shared());
    let edge = |site, endpoints: &[&str], args: &[&str]| {
        lab.deployment.edge(site).endpoints(endpoints).args(args).enrol().unwrap()
    };
    let mut dialer = edge(&lab.sites.aliyun_sz, &[], &["--forwarding", "leave"]);
    let mut acceptor = edge(&lab.sites.aws_hk, &[HK], &[]);
    dialer.wait_links(1).unwrap();
    acceptor.wait_links(1).unwrap();
    let host = dialer.host().clone();
    run(&host, "sysctl -qw net.ipv4.ip_forward=1");
    let pinger = ping(&dialer, &acceptor, 5 * MS);
    for (key, about) in [
        ("net.ipv4.conf.eth1.forwarding", "eth1"),
        ("net.ipv4.conf.cframe0.forwarding", "cframe0"),
        ("net.ipv4.ip_forward", ""),
    ] {
        run(&host, &format!("sysctl -qw {key}=0"));
        let found = wait_edge_problem(&dialer, "forwarding-off", about);
        assert!(found["text"].as_str().unwrap().contains(key), "{found:#}");
        paste_fix(&host, &found);
        wait_edge_problem_ends(&dialer, "forwarding-off", FIXED);
        pinger.steady(20, TIMEOUT).unwrap();
    }
}

#[test]
fn the_mtu_of_the_device_is_put_back_within_two_seconds() {
    let pair = DeployedPair::start("mtu", shared());
    let host = pair.dialer.host();
    let mtu = || ip(host, &["-o", "link", "show", "cframe0"]).contains("mtu 1400");
    assert!(mtu());
    let pinger = ping(&pair.dialer, &pair.acceptor, 5 * MS);
    for wrong in ["9000", "1200", "1399"] {
        host.ip(&format!("link set cframe0 mtu {wrong}")).unwrap();
        let took = wait_for(TIMEOUT, mtu).unwrap();
        within(&format!("MTU {wrong} → 1400"), took, 2 * SECOND);
        pinger.steady(20, TIMEOUT).unwrap();
    }
}

/// Lines that an edge has logged since it had logged `before`.
fn lines_since(log: &str, before: &str) -> usize {
    log.lines().count() - before.lines().count()
}

#[test]
fn a_program_that_undoes_rules_and_routes_is_named_and_answered_ever_more_slowly() {
    let pair = DeployedPair::start("undone", shared());
    let host = pair.dialer.host();
    let clear = Clear::watch(&[pair.dialer.site()], &[]);
    let table = pair.dialer.status().unwrap()["routes"]["table"].to_string();
    let pinger = ping(&pair.dialer, &pair.acceptor, 5 * MS);
    for (what, undo) in [
        ("the policy rule", format!("ip rule del lookup {table}")),
        ("routes", format!("ip route flush table {table}")),
    ] {
        let before = pair.dialer.process().log();
        let mut command = host.command("sh");
        command.args(["-c", &format!("while :; do {undo} 2>/dev/null; sleep 0.01; done")]);
        let start = Instant::now();
        let mut program = host.spawn("undo", command).unwrap();
        let found = wait_edge_problem(&pair.dialer, "changes-undone", what);
        figure("undone", found["text"].as_str().unwrap());
        wait_for(Duration::from_secs(30), || start.elapsed() > Duration::from_secs(20)).unwrap();
        let lines = lines_since(&pair.dialer.process().log(), &before);
        within("log lines in 20 s", Duration::from_secs(lines as u64), Duration::from_secs(10));
        program.terminate(TIMEOUT).unwrap();
        clear.check(what);
        pinger.steady(20, 2 * TIMEOUT).unwrap();
        wait_edge_problem_ends(&pair.dialer, "changes-undone", Duration::from_secs(40));
    }
    wait_healthy(&pair.lab.deployment, 2 * TIMEOUT);
}

#[test]
fn links_work_beside_the_marks_of_other_programs_and_with_a_mark_of_ones_own() {
    let lab = TestLab::start("marks", shared());
    let site = &lab.sites.aliyun_sz;
    // A program that drops, and one that redirects, what has one of these marks.
    for mark in [
        "0x4000/0x4000",
        "0x8000/0x8000",
        "0xf00/0xf00",
        "0x80/0x80",
        "0x2000/0x2000",
        "0x40000/0xff0000",
        "0x80000/0xff0000",
    ] {
        let (value, mask) = mark.split_once('/').unwrap();
        run(
            site.edge(),
            &format!(
                "iptables -A OUTPUT -m mark --mark {mark} -j DROP\n\
                 ip rule add fwmark {value}/{mask} prohibit pref 200"
            ),
        );
    }
    run(site.edge(), "iptables -A OUTPUT -m mark ! --mark 0/0xffff0000 -j DROP");
    let mut acceptor = lab.edge(&lab.sites.aws_hk, &[HK]);
    let mut dialer = lab.edge(site, &[]);
    dialer.wait_links(1).unwrap();
    acceptor.wait_links(1).unwrap();
    let rules = ip(site.edge(), &["rule"]);
    assert!(rules.contains("not from all fwmark 0x1040/0x1040"), "{rules}");

    // The rule of an earlier version with another mark is replaced.
    dialer.stop().unwrap();
    let table = dialer_table(&rules);
    run(
        site.edge(),
        &format!(
            "ip rule del pref 5842; ip rule add not fwmark 0xcf000000/0xff000000 lookup {table} pref 5842"
        ),
    );
    let config = dialer.dir().join("edge.toml");
    let text = std::fs::read_to_string(&config).unwrap_or_default();
    std::fs::write(&config, format!("mark = \"0x100000/0x100000\"\n{text}")).unwrap();
    run(site.edge(), "iptables -F OUTPUT");
    dialer.start().unwrap();
    dialer.wait_links(1).unwrap();
    let rules = ip(site.edge(), &["rule"]);
    assert!(rules.contains("not from all fwmark 0x100000/0x100000"), "{rules}");
    assert_eq!(rules.matches(&table).count(), 1, "{rules}");
    ping(&dialer, &acceptor, 5 * MS);
}

/// The table that the edge's rule looks up.
fn dialer_table(rules: &str) -> String {
    let rule = rules.lines().find(|line| line.starts_with("5842:")).unwrap();
    rule.split_whitespace().skip_while(|word| *word != "lookup").nth(1).unwrap().to_owned()
}
