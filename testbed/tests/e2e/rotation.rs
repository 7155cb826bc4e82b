//! Edges whose root or certificate is no longer valid.

use std::time::{Duration, Instant};

use cframe_pki::renewal;
use cframe_pki::tls::Credentials;
use cframe_pki::unix_now;
use cframe_testbed::deployment::Deployment;

use crate::impostor::Forge;
use crate::lab::{DeployedPair, TIMEOUT, shared, within};

/// The fingerprints of the mesh's roots.
pub(crate) fn roots(deployment: &Deployment) -> Vec<String> {
    let status = deployment.ctl_json(&["ca", "status"]).unwrap();
    let roots = status["roots"].as_array().unwrap().clone();
    roots.iter().map(|root| root["fingerprint"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_root_dropped_by_force_cuts_off_the_edges_below_it_within_seconds() {
    let mut pair = DeployedPair::start("dropped", shared());
    let deployment = &pair.lab.deployment;
    let second = pair.lab.net.path("second").display().to_string();
    let new_root = ["ca", "new-root", "--mesh", "lab", "--out", &second];
    deployment.controller_program(&new_root).unwrap().success().unwrap();
    let old = roots(deployment).remove(0);
    deployment.ctl_ok(&["ca", "rotate", "add", &format!("{second}/root.pem"), "--wait"]).unwrap();
    deployment.controller_program(&["ca", "renew", "--root", &second]).unwrap().success().unwrap();
    deployment.ctl_ok(&["ca", "rotate", "renew", "--timeout", "30s"]).unwrap();
    // One edge gets a certificate below the old root again, as if it had not renewed.
    let forge = Forge::of(&deployment.controller_dir());
    let id = Credentials::load(pair.dialer.dir()).unwrap().identity().unwrap().id;
    pair.dialer.stop().unwrap();
    forge.certify(&id).save(pair.dialer.dir()).unwrap();
    pair.dialer.start().unwrap();
    pair.dialer.wait_links(1).unwrap();
    let start = Instant::now();
    deployment.ctl_ok(&["ca", "rotate", "drop", &old, "--yes"]).unwrap();
    pair.acceptor.wait_links(0).unwrap();
    within("a root dropped → the link of an edge below it gone", start.elapsed(), TIMEOUT);
}

#[test]
fn an_edge_reports_that_its_certificate_has_expired_and_joins_again_with_a_token() {
    let mut pair = DeployedPair::start("expired", shared());
    let deployment = &pair.lab.deployment;
    let forge = Forge::of(&deployment.controller_dir());
    let dir = pair.dialer.dir().to_owned();
    let id = Credentials::load(&dir).unwrap().identity().unwrap().id;
    pair.dialer.stop().unwrap();
    // It did not run while its certificate expired.
    let minute = Duration::from_secs(60);
    let expired = forge.certify_at(&id, minute, unix_now() - 50 * minute.as_secs());
    assert!(renewal::days_left(expired.identity().unwrap().not_after, unix_now()) < 0);
    expired.save(&dir).unwrap();
    pair.dialer.start().unwrap();
    pair.dialer.wait_serving().unwrap();
    pair.dialer
        .wait_status("the expiry among its problems", TIMEOUT, |status| {
            status["problems"].to_string().contains("--rejoin")
        })
        .unwrap();
    let doctor = pair.dialer.run(&["doctor"]).unwrap();
    let printed = format!("{}{}", doctor.stdout, doctor.stderr);
    assert!(printed.contains("expired") && printed.contains("--rejoin"), "{printed}");

    let args = ["-n", "prod", "--edge", pair.dialer.name(), "--rejoin"];
    let token = deployment.token_with(&args).unwrap();
    pair.dialer.run(&["join", &token]).unwrap().success().unwrap();
    let start = Instant::now();
    pair.dialer.wait_links(1).unwrap();
    pair.acceptor.wait_links(1).unwrap();
    within("joined again after expiry → link up", start.elapsed(), TIMEOUT);
}
