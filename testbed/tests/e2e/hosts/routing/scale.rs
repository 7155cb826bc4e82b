//! Hosts with the routes of the whole internet, and containers that come and go.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::lab::{DeployedPair, MS, SECOND, TIMEOUT, alone, figure, ip, ping, wait_for, within};

const ROUTES: u32 = 500_000;

#[test]
fn half_a_million_routes_and_twenty_events_a_second_cost_little_and_delay_no_edit() {
    let pair = DeployedPair::start("internet", alone());
    let host = pair.dialer.host();
    let gateway = ip(host, &["route", "show", "default"]);
    let gateway = gateway.split_whitespace().nth(2).unwrap().to_owned();
    let mut batch = String::new();
    for i in 0..ROUTES {
        // None is inside a prefix of the mesh.
        let net = std::net::Ipv4Addr::from((20 << 24) + (i << 8));
        writeln!(batch, "route add {net}/24 via {gateway}").unwrap();
    }
    let path = pair.lab.net.path("routes");
    std::fs::write(&path, batch).unwrap();
    let mut load = host.command("ip");
    load.args(["-force", "-batch"]).arg(&path);
    load.stderr(std::process::Stdio::null());
    load.status().unwrap();
    let count = ip(host, &["route"]).lines().count();
    figure("routes in the main table", count);
    let pinger = ping(&pair.dialer, &pair.acceptor, 5 * MS);
    pinger.steady(400, TIMEOUT).unwrap();

    let cpu = || pair.dialer.process().cpu_seconds().unwrap();
    let (before, start) = (cpu(), Instant::now());
    let mut events = 0;
    while start.elapsed() < 10 * SECOND {
        let name = format!("v{}", events % 7);
        host.ip(&format!(
            "link add {name} type veth peer name {name}p\nlink set {name} up\naddr add 192.168.{}.1/24 dev {name}\nlink del {name}",
            events % 200
        ))
        .unwrap();
        events += 4;
        let due = SECOND * events / 20;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    let used = cpu() - before;
    let share = used / start.elapsed().as_secs_f64() * 100.0;
    figure(
        "CPU of the edge",
        format_args!("{share:.2} % of a core, {events} events (bound 5 % in profile dist)"),
    );
    // The tests' profile does not optimise this part of the edge.
    assert!(share < 20.0, "{share}");

    let edit = Instant::now();
    let add = ["route", "add", "late", "-n", "prod", "--cidr", "10.77.0.0/16", "--edge", "aws-hk"];
    pair.lab.deployment.ctl_ok(&add).unwrap();
    wait_for(TIMEOUT, || ip(host, &["route", "get", "10.77.0.1"]).contains("cframe0")).unwrap();
    within("edit → route", edit.elapsed(), Duration::from_millis(500));
}
