//! Writes that are refused or get a warning: the message and the exit code.

use cframe_testbed::deployment::{Deployment, Output};

use crate::lab::{DeployedEdges, MS, TestLab, ping, shared};

fn ctl(deployment: &Deployment, command: &str) -> Output {
    deployment.ctl(&command.split(' ').collect::<Vec<_>>()).unwrap()
}

/// Checks that a command fails with this exit code, and that its standard error contains these words.
fn check_refused(deployment: &Deployment, command: &str, code: i32, words: &[&str]) {
    let output = ctl(deployment, command);
    assert_eq!(output.code, code, "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "no {word:?} in: {output}");
    }
    assert!(output.stdout.is_empty(), "{output}");
}

#[test]
fn conflicting_and_invalid_writes_are_refused_with_a_message_that_names_both_sides() {
    let lab = TestLab::start("refusals", shared());
    let deployment = &lab.deployment;
    ctl(deployment, "edge add aws-hk -n prod --cidr 172.30.0.0/16").success().unwrap();
    ctl(deployment, "edge add idc -n prod --cidr 10.60.6.0/24,fd00:60::/64").success().unwrap();
    ctl(deployment, "route add pods -n prod --cidr 10.244.0.0/16 --edge aws-hk").success().unwrap();
    let cases: [(&str, i32, &[&str]); 17] = [
        // Overlaps, in either direction, with an edge's own prefix or a route's.
        (
            "edge add two -n prod --cidr 172.30.128.0/17",
            4,
            &["172.30.128.0/17", "172.30.0.0/16", "aws-hk", "two"],
        ),
        (
            "edge add two -n prod --cidr 172.16.0.0/12",
            4,
            &["172.16.0.0/12", "172.30.0.0/16", "aws-hk"],
        ),
        (
            "route add r -n prod --cidr 10.60.6.128/25 --edge aws-hk",
            4,
            &["10.60.6.128/25", "10.60.6.0/24", "idc"],
        ),
        (
            "route add r -n prod --cidr 10.244.3.0/24 --edge idc",
            4,
            &["10.244.3.0/24", "10.244.0.0/16", "pods", "aws-hk"],
        ),
        (
            "route add r -n prod --cidr fd00:60::/48 --edge aws-hk",
            4,
            &["fd00:60::/48", "fd00:60::/64", "idc"],
        ),
        (
            "edge set idc -n prod --cidr 172.30.9.0/24 --yes",
            4,
            &["172.30.9.0/24", "172.30.0.0/16", "aws-hk"],
        ),
        ("edge add aws-hk -n prod --cidr 10.9.0.0/16", 4, &["aws-hk"]),
        // Invalid and reserved prefixes.
        (
            "edge add two -n prod --cidr 10.9.1.0/16",
            2,
            &["10.9.1.0/16", "host bits", "10.9.0.0/16"],
        ),
        ("route add r -n prod --cidr 10.9.0.0/33 --edge idc", 2, &["33"]),
        ("edge add two -n prod --cidr 0.0.0.0/0", 1, &["0.0.0.0/0"]),
        ("route add r -n prod --cidr ::/0 --edge idc", 1, &["::/0"]),
        ("edge add two -n prod --cidr 127.0.0.0/8", 1, &["127.0.0.0/8", "loopback"]),
        ("edge add two -n prod --cidr 169.254.0.0/16", 1, &["169.254.0.0/16", "link-local"]),
        ("edge add two -n prod --cidr 224.0.0.0/4", 1, &["224.0.0.0/4", "multicast"]),
        // Names.
        ("edge add Bad_Name -n prod --cidr 10.9.0.0/16", 2, &["Bad_Name"]),
        ("namespace add -x", 2, &["-x"]),
        ("route add r -n prod --cidr 10.9.0.0/16 --edge aws-hl", 3, &["aws-hl", "aws-hk"]),
    ];
    for (command, code, words) in cases {
        check_refused(deployment, command, code, words);
    }
    let edges = deployment.ctl_json(&["edge", "list", "-n", "prod"]).unwrap();
    assert_eq!(edges.as_array().unwrap().len(), 2, "{edges:#}");
    let routes = deployment.ctl_json(&["route", "list", "-n", "prod"]).unwrap();
    assert_eq!(routes.as_array().unwrap().len(), 1, "{routes:#}");
    check_refused(deployment, "edge del aws-hk -n prod", 2, &["--yes"]);
    check_refused(deployment, "edge show nobody -n prod", 3, &["nobody"]);
    check_refused(deployment, "edge list -n prodd", 3, &["prodd", "prod"]);
}

#[test]
fn a_prefix_that_contains_an_endpoint_gets_a_warning_and_works() {
    let mut edges = DeployedEdges::start("captured", shared());
    let deployment = &edges.lab.deployment;
    let output =
        ctl(deployment, "route add wide -n prod --cidr 198.18.0.0/16 --edge aws-hk --wait");
    assert_eq!(output.code, 0, "{output}");
    for word in ["198.18.0.0/16", "198.18.0.7:58423", "idc"] {
        assert!(output.stderr.contains(word), "no {word:?} in: {output}");
    }
    drop(ping(&edges.sz, &edges.idc, 10 * MS));
    let controller =
        ctl(deployment, "route add ctl -n prod --cidr 198.51.100.0/24 --edge idc --wait");
    assert_eq!(controller.code, 0, "{controller}");
    assert!(controller.stderr.contains("controller"), "{controller}");
    for edge in edges.all() {
        edge.restart().unwrap();
        edge.wait_links(2).unwrap();
        edge.wait_synced().unwrap();
    }
}
