//! The root of a running mesh is replaced, and put back.

use std::path::Path;
use std::time::{Duration, Instant};

use cframe_testbed::deployment::{Deployment, Edge};
use cframe_testbed::{Pinger, Site};
use serde_json::Value;

use crate::lab::{MS, TestLab, alone, figure, none_lost, ping};
use crate::rotation::roots;

const EDGES: usize = 6;
/// Edges renew their certificates, and then their links within 20 s.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(40);

/// Starts six edges, the last of them without an endpoint.
fn start_edges(lab: &mut TestLab) -> Vec<Edge> {
    let more: Vec<Site> = (1..=3)
        .map(|n| {
            let site = lab.net.site(&format!("more-{n}")).public(&format!("100.7{n}.0.7/24"));
            site.inner(&format!("10.7{n}.0.0/16")).build().unwrap()
        })
        .collect();
    let sites: Vec<Site> = lab.sites.sites().into_iter().cloned().chain(more).collect();
    let mut edges: Vec<Edge> = sites
        .iter()
        .enumerate()
        .map(|(index, site)| {
            let enrolment = lab.deployment.edge(site);
            let enrolment = if index == EDGES - 1 { enrolment.endpoints(&[]) } else { enrolment };
            enrolment.enrol().unwrap()
        })
        .collect();
    for edge in &mut edges {
        edge.wait_links(EDGES - 1).unwrap();
        edge.wait_synced().unwrap();
    }
    edges
}

fn next_step(deployment: &Deployment) -> String {
    let status = deployment.ctl_json(&["ca", "status"]).unwrap();
    status["next"].as_str().unwrap().to_owned()
}

/// Rotates from the root with the fingerprint `old` to the one in the directory `root`. `sign` is the command that makes
/// the controller sign with the new root's CA.
fn rotate(deployment: &Deployment, root: &Path, old: &str, sign: &[&str]) {
    let file = root.join("root.pem").display().to_string();
    deployment.ctl_ok(&["ca", "rotate", "add", &file, "--wait"]).unwrap();
    deployment.ctl_ok(&["ca", "status", "--wait"]).unwrap();
    deployment.controller_program(sign).unwrap().success().unwrap();
    // As long as edges have certificates below the old root, it cannot be dropped.
    let early = deployment.ctl(&["ca", "rotate", "drop", old]).unwrap();
    assert_eq!(early.code, 4, "{early}");
    assert!(next_step(deployment).contains("rotate renew"), "{}", next_step(deployment));
    deployment.ctl_ok(&["ca", "rotate", "renew", "--timeout", "30s"]).unwrap();
    assert!(next_step(deployment).contains(old), "{}", next_step(deployment));
    deployment.ctl_ok(&["ca", "rotate", "drop", old, "--wait"]).unwrap();
    assert!(!roots(deployment).contains(&old.to_owned()));
}

/// Waits until all links of all edges are younger than `since`, so use new certificates.
fn wait_new_links(edges: &mut [Edge], since: Instant) {
    for edge in edges {
        edge.wait_status("new links", RENEWAL_TIMEOUT, |status| {
            let links = status["links"].as_array().unwrap();
            let is_new = |link: &Value| {
                let age = Duration::from_secs(link["since_secs"].as_u64().unwrap());
                link["up"] == true && age < since.elapsed()
            };
            links.len() == EDGES - 1 && links.iter().all(is_new)
        })
        .unwrap();
    }
}

#[test]
fn a_root_is_rotated_forward_and_back_on_a_running_mesh_without_a_lost_ping() {
    let mut lab = TestLab::start("rotation", alone());
    let mut edges = start_edges(&mut lab);
    let deployment = &lab.deployment;
    let pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3)];
    let pingers: Vec<Pinger> =
        pairs.iter().map(|(a, b)| ping(&edges[*a], &edges[*b], 10 * MS)).collect();

    let first = lab.net.path("first");
    std::fs::create_dir(&first).unwrap();
    std::fs::copy(deployment.controller_dir().join("ca/root.pem"), first.join("root.pem")).unwrap();
    let status = deployment.ctl_json(&["ca", "status"]).unwrap();
    let (old, issuer) = (roots(deployment).remove(0), &status["issuers"][0]["fingerprint"]);
    let issuer = issuer.as_str().unwrap().to_owned();
    let second = lab.net.path("second");
    let shown = second.display().to_string();
    let output =
        deployment.controller_program(&["ca", "new-root", "--mesh", "lab", "--out", &shown]);
    let new = output.unwrap().success().unwrap().trim().to_owned();

    let start = Instant::now();
    rotate(deployment, &second, &old, &["ca", "renew", "--root", &shown]);
    wait_new_links(&mut edges, start);
    let forward = start.elapsed();
    assert_eq!(roots(deployment), std::slice::from_ref(&new));
    deployment.wait_in_sync("prod", EDGES as u32).unwrap();

    let start = Instant::now();
    rotate(deployment, &first, &new, &["ca", "use", &issuer]);
    wait_new_links(&mut edges, start);
    let back = start.elapsed();
    assert_eq!(roots(deployment), std::slice::from_ref(&old));
    deployment.wait_in_sync("prod", EDGES as u32).unwrap();
    figure(
        "rotation of the root at 6 edges",
        format_args!("{forward:.1?} forward, {back:.1?} back"),
    );

    none_lost(
        "pings lost in a rotation of the root, forward and back, 7 pairs of 6 edges every 10 ms",
        pingers,
    );
}
