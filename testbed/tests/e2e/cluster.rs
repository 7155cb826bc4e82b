//! Several controllers on an etcd of three members.

pub(crate) mod etcd;
pub(crate) mod lab;
pub(crate) mod observers;

use serde_json::Value;

use crate::lab::{TIMEOUT, shared, wait_for};
use lab::{Cluster, connected, version, wait_connected};

/// Removes the fields that change with time.
fn without_times(mut value: Value) -> Value {
    match &mut value {
        Value::Array(rows) => *rows = rows.drain(..).map(without_times).collect(),
        Value::Object(fields) => {
            for time in ["uptime_seconds", "rtt_ms", "since", "age_seconds"] {
                fields.remove(time);
            }
            fields.values_mut().for_each(|field| *field = without_times(field.take()));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}

#[test]
fn each_controller_answers_for_the_whole_mesh() {
    let mut cluster = Cluster::start("answers", 3, shared());
    let mut edges = [0, 1, 2].map(|controller| cluster.edge(controller));
    edges.iter_mut().for_each(|edge| edge.wait_links(2).unwrap());
    cluster.deployment.wait_in_sync("prod", 3).unwrap();

    // One controller accepts a token that another has created.
    let site = cluster.site();
    let enrolment = cluster.deployment.edge(&site);
    enrolment.add().unwrap();
    let token = cluster.deployment.token("prod", "e4").unwrap();
    site.uplink().cut_from(cluster.hosts[0].uplink(), true).unwrap();
    let mut fourth = enrolment.join(&token).unwrap();
    fourth.wait_synced().unwrap();
    assert_ne!(connected(&fourth), Some(cluster.hosts[0].address()));
    fourth.wait_links(3).unwrap();
    cluster.deployment.wait_in_sync("prod", 4).unwrap();

    for (n, edge) in edges.iter().enumerate() {
        let (name, cidr) = (format!("r{n}"), format!("10.200.{n}.0/24"));
        let add = ["route", "add", &name, "-n", "prod", "--cidr", &cidr, "--edge", edge.name()];
        cluster.ctl(n, &[&add[..], &["--wait"]].concat()).success().unwrap();
        // `--wait` waits for the edges of all controllers.
        let newest = cluster.revision(n);
        for edge in edges.iter().chain([&fourth]) {
            assert_eq!(version(edge).unwrap().namespace, newest, "{}", edge.name());
        }
    }

    let commands: [&[&str]; 5] = [
        &["status"],
        &["edge", "list", "-A"],
        &["ca", "status"],
        &["audit", "-A", "--limit", "0"],
        &["controller", "list"],
    ];
    for command in commands {
        let answer = |controller| without_times(cluster.json(controller, command));
        let all_equal = || answer(0) == answer(1) && answer(1) == answer(2);
        if let Err(error) = wait_for(TIMEOUT, all_equal) {
            let answers: Vec<Value> = (0..3).map(answer).collect();
            panic!("{command:?}: {error:#}: {answers:#?}");
        }
    }
    let status = cluster.json(2, &["status"]);
    assert_eq!(status["controllers"].as_array().unwrap().len(), 3, "{status:#}");
    assert_eq!(status["namespaces"][0]["in_sync"], 4, "{status:#}");
    let root = &cluster.json(1, &["ca", "status"])["roots"][0];
    assert_eq!((&root["trusted_by"], &root["edges"]), (&4.into(), &4.into()), "{root:#}");
    let records = cluster.json(1, &["audit", "-A", "--call", "route-add"]);
    assert_eq!(records.as_array().unwrap().len(), 3, "{records:#}");

    // A controller is removed.
    let running = cluster.ctl(0, &["controller", "del", "ctl3", "--yes"]);
    assert_ne!(running.code, 0, "{running}");
    cluster.deployment.controllers()[2].process_mut().terminate(TIMEOUT).unwrap();
    wait_for(TIMEOUT, || cluster.ctl(0, &["controller", "del", "ctl3", "--yes"]).code == 0)
        .unwrap();
    let remaining = [0, 1].map(|controller| cluster.hosts[controller].address());
    for edge in edges.iter().chain([&fourth]) {
        wait_connected(edge, &remaining, TIMEOUT);
        let known = || edge.status().unwrap()["controller"]["addresses"].as_array().unwrap().len();
        wait_for(TIMEOUT, || known() == 2).unwrap();
    }
    cluster.deployment.wait_in_sync("prod", 4).unwrap();
}
