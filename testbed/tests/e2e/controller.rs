//! The controller's own life.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cframe_testbed::wait_until;

use crate::world::{MS, PATIENCE, Pair, SECOND, World, linked, ping, shared, within};

#[test]
fn the_controllers_http_port_answers() {
    let mut world = World::start("http", shared());
    let deployment = &mut world.mesh.deployment;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(deployment.http(path).unwrap().0, 200, "{path}");
    }
    deployment.wait_in_sync("prod", 3).unwrap();
    let (code, metrics) = deployment.http("/metrics").unwrap();
    assert_eq!(code, 200);
    assert!(metrics.ends_with("# EOF\n"), "not OpenMetrics: {metrics}");
    assert!(metrics.contains("cframe_"), "{metrics}");
    assert_eq!(deployment.http("/secrets").unwrap().0, 404);
}

#[test]
fn an_edges_metrics_are_served_where_it_is_told() {
    let mesh = crate::world::Mesh::start("metrics", shared());
    let edge = mesh.deployment.edge(&mesh.three.idc).args(&["--metrics-listen", "127.0.0.1:9584"]);
    let edge = edge.enrol().unwrap();
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9584")?;
        stream.set_read_timeout(Some(SECOND))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = edge.host().enter(ask).unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("cframe_"), "{answer}");
}

#[test]
fn a_controller_that_is_restarted_costs_no_packet_and_keeps_everything() {
    let mut world = World::start("restart", shared());
    let pinger = ping(&world.sz, &world.hk, 10 * MS);
    let before = world.mesh.deployment.ctl_json(&["edge", "list", "-n", "prod"]).unwrap();
    let start = Instant::now();
    world.mesh.deployment.controller_mut().terminate(5 * SECOND).unwrap();
    within("SIGTERM → controller stopped", start.elapsed(), 2 * SECOND);
    let start = Instant::now();
    world.mesh.deployment.start_controller().unwrap();
    within("controller started → ready", start.elapsed(), SECOND);
    for edge in world.edges() {
        edge.wait_synced().unwrap();
    }
    within("controller started → all edges have their sessions", start.elapsed(), 5 * SECOND);
    let after = world.mesh.deployment.ctl_json(&["edge", "list", "-n", "prod"]).unwrap();
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
fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let mut mesh = crate::world::Mesh::start("acknowledged", shared());
    mesh.deployment.ctl_ok(&["edge", "add", "e", "-n", "prod", "--cidr", "172.30.0.0/16"]).unwrap();
    for round in 0..5 {
        let acknowledged = std::thread::scope(|scope| {
            let deployment = &mesh.deployment;
            let pid = deployment.controller().pid();
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    scope.spawn(move || {
                        let mut done = Vec::new();
                        for n in 0.. {
                            let name = format!("r{round}-{writer}-{n}");
                            let cidr = format!("10.{}.{n}.0/24", 10 * round + writer + 20);
                            let add = [
                                "route",
                                "add",
                                &name,
                                "-n",
                                "prod",
                                "--edge",
                                "e",
                                "--timeout",
                                "1s",
                                "--cidr",
                                &cidr,
                            ];
                            if deployment.ctl(&add).unwrap().code != 0 {
                                break;
                            }
                            done.push(name);
                        }
                        done
                    })
                })
                .collect();
            let start = Instant::now();
            wait_until(PATIENCE, || start.elapsed() > 200 * MS).unwrap();
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        mesh.deployment.controller_mut().wait(PATIENCE).unwrap();
        let start = Instant::now();
        mesh.deployment.start_controller().unwrap();
        within("controller killed in mid-write → serving again", start.elapsed(), SECOND);
        let routes = mesh.deployment.ctl_json(&["route", "list", "-n", "prod"]).unwrap();
        let names: Vec<_> = routes.as_array().unwrap().iter().map(|r| r["name"].clone()).collect();
        for name in acknowledged {
            assert!(names.contains(&name.as_str().into()), "{name} was acknowledged and is lost");
        }
    }
}

#[test]
fn an_edge_that_stops_says_so_to_its_peers_and_its_controller() {
    let mut pair = Pair::start("leave", shared());
    let start = Instant::now();
    pair.dialer.stop().unwrap();
    within("SIGTERM → edge stopped", start.elapsed(), 2 * SECOND);
    let waited = wait_until(PATIENCE, || !linked(&pair.acceptor, "aliyun-sz")).unwrap();
    within("edge stopped → link gone at its peer", waited, Duration::from_millis(500));
    let log = pair.acceptor.process().log();
    assert!(log.contains("the edge stops"), "{log}");
    let offline = || {
        let edge =
            pair.mesh.deployment.ctl_json(&["edge", "show", "aliyun-sz", "-n", "prod"]).unwrap();
        edge["state"] == "offline"
    };
    let waited = wait_until(PATIENCE, offline).unwrap();
    within("edge stopped → offline at the controller", waited, SECOND);
}
