//! The controller's ports, restarts and view of its edges.

use std::time::{Duration, Instant};

use cframe_testbed::deployment::{Deployment, http_get};

use crate::lab::{
    DeployedEdges, DeployedPair, MS, SECOND, TIMEOUT, TestLab, linked, ping, shared, wait_for,
    within,
};

#[test]
fn the_controllers_http_port_answers() {
    let mut edges = DeployedEdges::start("http", shared());
    let deployment = &mut edges.lab.deployment;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(deployment.controller().http(path).unwrap().0, 200, "{path}");
    }
    deployment.wait_in_sync("prod", 3).unwrap();
    let (code, metrics) = deployment.controller().http("/metrics").unwrap();
    assert_eq!(code, 200);
    assert!(metrics.ends_with("# EOF\n"), "not OpenMetrics: {metrics}");
    assert!(metrics.contains("cframe_"), "{metrics}");
    assert_eq!(deployment.controller().http("/secrets").unwrap().0, 404);
}

#[test]
fn an_edge_serves_its_metrics_at_the_address_of_its_flag() {
    let lab = TestLab::start("metrics", shared());
    let edge = lab.deployment.edge(&lab.sites.idc).args(&["--metrics-listen", "127.0.0.1:9584"]);
    let edge = edge.enrol().unwrap();
    let address = "127.0.0.1:9584".parse().unwrap();
    let (code, metrics) = edge.host().enter(|| http_get(address, "/metrics")).unwrap().unwrap();
    assert!(code == 200 && metrics.contains("cframe_"), "{code}: {metrics}");
}

#[test]
fn a_restart_of_the_controller_costs_no_packet_and_loses_nothing() {
    let mut edges = DeployedEdges::start("restart", shared());
    let pinger = ping(&edges.sz, &edges.hk, 10 * MS);
    let before = edges.lab.deployment.ctl_json(&["edge", "list", "-n", "prod"]).unwrap();
    let start = Instant::now();
    edges.lab.deployment.controller_mut().process_mut().terminate(5 * SECOND).unwrap();
    within("SIGTERM → controller stopped", start.elapsed(), 2 * SECOND);
    let start = Instant::now();
    edges.lab.deployment.controller_mut().start().unwrap();
    within("controller started → ready", start.elapsed(), SECOND);
    for edge in edges.all() {
        edge.wait_synced().unwrap();
    }
    within("controller started → all edges have their sessions", start.elapsed(), 5 * SECOND);
    let after = edges.lab.deployment.ctl_json(&["edge", "list", "-n", "prod"]).unwrap();
    let names = |list: &serde_json::Value| -> Vec<_> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|edge| (edge["name"].clone(), edge["cidrs"].clone()))
            .collect()
    };
    assert_eq!(names(&before), names(&after));
    let stats = pinger.stop();
    assert_eq!(stats.lost, Vec::<usize>::new(), "{stats}");
}

#[test]
fn acknowledged_writes_survive_a_kill() {
    let mut lab = TestLab::start("acknowledged", shared());
    lab.deployment.ctl_ok(&["edge", "add", "e", "-n", "prod", "--cidr", "172.30.0.0/16"]).unwrap();
    for round in 0..5 {
        let acknowledged: Vec<String> = std::thread::scope(|scope| {
            let deployment = &lab.deployment;
            let writers: Vec<_> = (0..4)
                .map(|writer| scope.spawn(move || add_routes(deployment, round, writer)))
                .collect();
            std::thread::sleep(200 * MS);
            let pid = deployment.controller().process().pid().cast_signed();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        lab.deployment.controller_mut().process_mut().wait(TIMEOUT).unwrap();
        let start = Instant::now();
        lab.deployment.controller_mut().start().unwrap();
        within("controller killed during writes → ready again", start.elapsed(), SECOND);
        let routes = lab.deployment.ctl_json(&["route", "list", "-n", "prod"]).unwrap();
        let names: Vec<_> = routes.as_array().unwrap().iter().map(|r| r["name"].clone()).collect();
        for name in acknowledged {
            assert!(names.contains(&name.as_str().into()), "{name} was acknowledged and is lost");
        }
    }
}

/// Adds routes until one fails; returns the names of those that were acknowledged.
fn add_routes(deployment: &Deployment, round: usize, writer: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let name = format!("r{round}-{writer}-{n}");
        let cidr = format!("10.{}.{n}.0/24", 10 * round + writer + 20);
        let add = ["route", "add", &name, "-n", "prod", "--edge", "e", "--timeout", "1s"];
        if deployment.ctl(&[&add[..], &["--cidr", &cidr]].concat()).unwrap().code != 0 {
            break;
        }
        acknowledged.push(name);
    }
    acknowledged
}

#[test]
fn a_stopping_edge_notifies_its_peers_and_its_controller() {
    let mut pair = DeployedPair::start("leave", shared());
    let start = Instant::now();
    pair.dialer.stop().unwrap();
    within("SIGTERM → edge stopped", start.elapsed(), 2 * SECOND);
    let waited = wait_for(TIMEOUT, || !linked(&pair.acceptor, "aliyun-sz")).unwrap();
    within("edge stopped → link gone at its peer", waited, Duration::from_millis(500));
    let log = pair.acceptor.process().log();
    assert!(log.contains("the edge stops"), "{log}");
    let offline = || {
        let edge =
            pair.lab.deployment.ctl_json(&["edge", "show", "aliyun-sz", "-n", "prod"]).unwrap();
        edge["state"] == "offline"
    };
    let waited = wait_for(TIMEOUT, offline).unwrap();
    within("edge stopped → offline at the controller", waited, SECOND);
}
