//! Tokens, and what they can be turned into.

use std::time::Instant;

use cframe_testbed::deployment::Output;

use crate::world::{Mesh, controller_host, figure, shared};

const JOINS: usize = 100;

#[test]
fn of_100_joins_at_once_with_one_token_one_gets_a_certificate() {
    let mesh = Mesh::start("joins", shared());
    let deployment = &mesh.deployment;
    deployment.ctl_ok(&["edge", "add", "wanted", "-n", "prod", "--cidr", "10.9.0.0/16"]).unwrap();
    let token = deployment.token("prod", "wanted").unwrap();
    let host = mesh.three.idc.edge();
    let start = Instant::now();
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..JOINS)
            .map(|n| {
                let (dir, token) = (mesh.lab.path(&format!("join-{n}")), &token);
                scope.spawn(move || deployment.edge_program(host, &dir, &["join", token]).unwrap())
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let took = start.elapsed();
    let joined = outputs.iter().filter(|output| output.code == 0).count();
    let certificates =
        deployment.ctl_json(&["cert", "list", "-n", "prod", "--edge", "wanted"]).unwrap();
    let certificates = certificates.as_array().unwrap().len();
    figure(
        "100 joins at once with one token",
        format_args!("{joined} joined, {certificates} certificates, in {took:.1?} (bound 1)"),
    );
    let codes: std::collections::BTreeMap<i32, usize> =
        outputs.iter().fold(Default::default(), |mut codes, output| {
            *codes.entry(output.code).or_default() += 1;
            codes
        });
    assert_eq!((joined, certificates), (1, 1), "{codes:?}\n{}", outputs[0]);
    let identities = (0..JOINS).filter(|n| mesh.lab.path(&format!("join-{n}/cert.pem")).exists());
    assert_eq!(identities.count(), 1);
    let refused = outputs.iter().find(|output| output.code != 0).unwrap();
    assert!(refused.stderr.contains("token"), "{refused}");
    assert!(!refused.stderr.contains(&token), "the token's secret is in a message");
    assert_eq!(codes.len(), 2, "the losers differ: {codes:?}");
}

#[test]
fn a_token_is_good_for_one_edge_for_its_time_and_for_its_own_mesh() {
    let mesh = Mesh::start("tokens", shared());
    let deployment = &mesh.deployment;
    let host = controller_host(&mesh);
    deployment.ctl_ok(&["edge", "add", "wanted", "-n", "prod", "--cidr", "10.9.0.0/16"]).unwrap();
    let join = |dir: &str, token: &str| {
        deployment.edge_program(host, &mesh.lab.path(dir), &["join", token]).unwrap()
    };
    // Revoked.
    let token = deployment.token("prod", "wanted").unwrap();
    let listed = deployment.ctl_json(&["token", "list", "-n", "prod"]).unwrap();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    deployment.ctl_ok(&["token", "revoke", &id]).unwrap();
    assert_eq!(join("revoked", &token).code, 5);
    // Late.
    let made = deployment
        .ctl_ok(&["token", "create", "-n", "prod", "--edge", "wanted", "--ttl", "1s"])
        .unwrap();
    let late = made.split_whitespace().find(|word| word.starts_with("cfj1.")).unwrap().to_owned();
    let gone = || {
        let left = deployment.ctl_json(&["token", "list", "-n", "prod"]).unwrap();
        left.as_array().unwrap().iter().all(|token| token["state"] != "valid")
    };
    cframe_testbed::wait_until(crate::world::PATIENCE, gone).unwrap();
    let start = Instant::now();
    cframe_testbed::wait_until(crate::world::PATIENCE, || {
        start.elapsed() > 2 * crate::world::SECOND
    })
    .unwrap();
    let output = join("late", &late);
    assert_eq!(output.code, 5, "{output}");
    // Altered: one character of the secret, and the pin of another CA.
    let token = deployment.token("prod", "wanted").unwrap();
    let last = if token.ends_with('A') { 'B' } else { 'A' };
    let mut altered = token.clone();
    altered.replace_range(token.len() - 3..token.len() - 2, &last.to_string());
    assert_ne!(join("altered", &altered).code, 0);
    // A second time.
    join("first", &token).success().unwrap();
    let again = join("second", &token);
    assert_eq!(again.code, 5, "{again}");
    assert!(!mesh.lab.path("second/cert.pem").exists());
    // Nothing of a secret in the controller's log.
    let log = deployment.controller().log();
    assert!(!log.contains("cfj1."), "a token is in the log");
}
