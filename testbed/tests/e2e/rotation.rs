//! The root of a running mesh is replaced, and put back.

use std::path::Path;
use std::time::{Duration, Instant};

use cframe_pki::renewal;
use cframe_pki::tls::Credentials;
use cframe_pki::unix_now;
use cframe_testbed::deployment::{Deployment, Edge};
use cframe_testbed::{Pinger, Site};
use serde_json::Value;

use crate::impostor::Forge;
use crate::world::{Mesh, PATIENCE, Pair, alone, figure, ping, shared, within};

const EDGES: usize = 6;
/// Each renews, and makes its links anew over 20 s.
const RENEWED: Duration = Duration::from_secs(40);

/// Six edges, the last of them without an endpoint.
fn six(mesh: &mut Mesh) -> Vec<Edge> {
    let more: Vec<Site> = (1..=3)
        .map(|n| {
            let site = mesh.lab.site(&format!("more-{n}")).public(&format!("100.7{n}.0.7/24"));
            site.inner(&format!("10.7{n}.0.0/16")).build().unwrap()
        })
        .collect();
    let sites: Vec<Site> = mesh.three.sites().into_iter().cloned().chain(more).collect();
    let mut edges: Vec<Edge> = sites
        .iter()
        .enumerate()
        .map(|(index, site)| {
            let enrolment = mesh.deployment.edge(site);
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

fn roots(deployment: &Deployment) -> Vec<String> {
    let status = deployment.ctl_json(&["ca", "status"]).unwrap();
    let roots = status["roots"].as_array().unwrap().clone();
    roots.iter().map(|root| root["fingerprint"].as_str().unwrap().to_owned()).collect()
}

fn next(deployment: &Deployment) -> String {
    let status = deployment.ctl_json(&["ca", "status"]).unwrap();
    status["next"].as_str().unwrap().to_owned()
}

/// From the root `old` to that in `root`; the controller signs with what `sign` makes it sign with.
fn rotate(deployment: &Deployment, root: &Path, old: &str, sign: &[&str]) {
    let file = root.join("root.pem").display().to_string();
    deployment.ctl_ok(&["ca", "rotate", "add", &file, "--wait"]).unwrap();
    deployment.ctl_ok(&["ca", "status", "--wait"]).unwrap();
    deployment.controller_program(sign).unwrap().success().unwrap();
    // Whoever is not done is named, and nothing changes.
    let early = deployment.ctl(&["ca", "rotate", "drop", old]).unwrap();
    assert_eq!(early.code, 4, "{early}");
    assert!(next(deployment).contains("rotate renew"), "{}", next(deployment));
    deployment.ctl_ok(&["ca", "rotate", "renew", "--timeout", "30s"]).unwrap();
    assert!(next(deployment).contains(old), "{}", next(deployment));
    deployment.ctl_ok(&["ca", "rotate", "drop", old, "--wait"]).unwrap();
    assert!(!roots(deployment).contains(&old.to_owned()));
}

/// Waits until no link of any edge is older than a moment: all were made by new certificates.
fn wait_remade(edges: &mut [Edge], since: Instant) {
    for edge in edges {
        edge.wait_status("links that were made anew", RENEWED, |status| {
            let links = status["links"].as_array().unwrap();
            let young = |link: &Value| {
                let age = Duration::from_secs(link["since_secs"].as_u64().unwrap());
                link["up"] == true && age < since.elapsed()
            };
            links.len() == EDGES - 1 && links.iter().all(young)
        })
        .unwrap();
    }
}

#[test]
fn a_root_is_rotated_forward_and_back_on_a_running_mesh_without_a_lost_ping() {
    let mut mesh = Mesh::start("rotation", alone());
    let mut edges = six(&mut mesh);
    let deployment = &mesh.deployment;
    let pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3)];
    let pingers: Vec<Pinger> = pairs
        .iter()
        .map(|(a, b)| ping(&edges[*a], &edges[*b], Duration::from_millis(10)))
        .collect();

    let first = mesh.lab.path("first");
    std::fs::create_dir(&first).unwrap();
    std::fs::copy(deployment.controller_dir().join("ca/root.pem"), first.join("root.pem")).unwrap();
    let status = deployment.ctl_json(&["ca", "status"]).unwrap();
    let (old, issuer) = (roots(deployment).remove(0), &status["issuers"][0]["fingerprint"]);
    let issuer = issuer.as_str().unwrap().to_owned();
    let second = mesh.lab.path("second");
    let shown = second.display().to_string();
    let made = deployment.controller_program(&["ca", "new-root", "--mesh", "lab", "--out", &shown]);
    let new = made.unwrap().success().unwrap().trim().to_owned();

    let begun = Instant::now();
    rotate(deployment, &second, &old, &["ca", "renew", "--root", &shown]);
    wait_remade(&mut edges, begun);
    let forward = begun.elapsed();
    assert_eq!(roots(deployment), std::slice::from_ref(&new));
    deployment.wait_in_sync("prod", EDGES as u32).unwrap();

    let turned = Instant::now();
    rotate(deployment, &first, &new, &["ca", "use", &issuer]);
    wait_remade(&mut edges, turned);
    let back = turned.elapsed();
    assert_eq!(roots(deployment), std::slice::from_ref(&old));
    deployment.wait_in_sync("prod", EDGES as u32).unwrap();
    figure(
        "rotation of the root at 6 edges",
        format_args!("{forward:.1?} forward, {back:.1?} back"),
    );

    let (mut sent, mut lost) = (0, 0);
    for pinger in pingers {
        let stats = pinger.stop();
        (sent, lost) = (sent + stats.sent, lost + stats.lost.len());
    }
    figure(
        "pings lost in a rotation of the root, forward and back, 7 pairs of 6 edges every 10 ms",
        format_args!("{lost} of {sent} (bound 0)"),
    );
    assert_eq!(lost, 0);
}

#[test]
fn a_root_that_is_dropped_by_force_cuts_off_whoever_depends_on_it_and_within_seconds() {
    let mut pair = Pair::start("dropped", shared());
    let deployment = &pair.mesh.deployment;
    let second = pair.mesh.lab.path("second").display().to_string();
    let made =
        deployment.controller_program(&["ca", "new-root", "--mesh", "lab", "--out", &second]);
    made.unwrap().success().unwrap();
    let old = roots(deployment).remove(0);
    deployment.ctl_ok(&["ca", "rotate", "add", &format!("{second}/root.pem"), "--wait"]).unwrap();
    deployment.controller_program(&["ca", "renew", "--root", &second]).unwrap().success().unwrap();
    deployment.ctl_ok(&["ca", "rotate", "renew", "--timeout", "30s"]).unwrap();
    // One goes back to the certificate that it had, as if it had never renewed: nobody has to take it any more.
    let forge = Forge::of(&deployment.controller_dir());
    let id = Credentials::load(pair.dialer.dir()).unwrap().identity().unwrap().id;
    pair.dialer.stop().unwrap();
    forge.certify(&id).save(pair.dialer.dir()).unwrap();
    pair.dialer.start().unwrap();
    pair.dialer.wait_links(1).unwrap();
    let start = Instant::now();
    deployment.ctl_ok(&["ca", "rotate", "drop", &old, "--yes"]).unwrap();
    pair.acceptor.wait_links(0).unwrap();
    within("a root dropped → the link of an edge below it gone", start.elapsed(), PATIENCE);
}

#[test]
fn an_edge_whose_certificate_has_expired_says_so_and_joins_again_with_a_token() {
    let mut pair = Pair::start("expired", shared());
    let deployment = &pair.mesh.deployment;
    let forge = Forge::of(&deployment.controller_dir());
    let dir = pair.dialer.dir().to_owned();
    let id = Credentials::load(&dir).unwrap().identity().unwrap().id;
    pair.dialer.stop().unwrap();
    // It was away while its certificate ended.
    let minute = Duration::from_secs(60);
    let expired = forge.certify_at(&id, minute, unix_now() - 50 * minute.as_secs());
    assert!(renewal::days_left(expired.identity().unwrap().not_after, unix_now()) < 0);
    expired.save(&dir).unwrap();
    pair.dialer.start().unwrap();
    pair.dialer.wait_serving().unwrap();
    pair.dialer
        .wait_status("the expiry among its problems", PATIENCE, |status| {
            status["problems"].to_string().contains("--rejoin")
        })
        .unwrap();
    let doctor = pair.dialer.run(&["doctor"]).unwrap();
    let said = format!("{}{}", doctor.stdout, doctor.stderr);
    assert!(said.contains("expired") && said.contains("--rejoin"), "{said}");

    let args = ["token", "create", "-n", "prod", "--edge", pair.dialer.name(), "--rejoin"];
    let said = deployment.ctl_ok(&args).unwrap();
    let token = said.split_whitespace().find(|word| word.starts_with("cfj1.")).unwrap().to_owned();
    pair.dialer.run(&["join", &token]).unwrap().success().unwrap();
    let start = Instant::now();
    pair.dialer.wait_links(1).unwrap();
    pair.acceptor.wait_links(1).unwrap();
    within("joined again after expiry → link up", start.elapsed(), PATIENCE);
}
