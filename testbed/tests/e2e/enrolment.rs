//! Join tokens, and the certificates that edges get for them.

use std::collections::BTreeMap;
use std::time::Instant;

use cframe_testbed::deployment::Output;

use crate::lab::{TIMEOUT, TestLab, figure, shared, wait_for};

const JOINS: usize = 100;

#[test]
fn of_100_parallel_joins_with_one_token_one_gets_a_certificate() {
    let lab = TestLab::start("joins", shared());
    let deployment = &lab.deployment;
    deployment.ctl_ok(&["edge", "add", "wanted", "-n", "prod", "--cidr", "10.9.0.0/16"]).unwrap();
    let token = deployment.token("prod", "wanted").unwrap();
    let host = lab.sites.idc.edge();
    let start = Instant::now();
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..JOINS)
            .map(|n| {
                let (dir, token) = (lab.net.path(&format!("join-{n}")), &token);
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
        "100 parallel joins with one token",
        format_args!("{joined} joined, {certificates} certificates, in {took:.1?} (bound 1)"),
    );
    let codes: BTreeMap<i32, usize> =
        outputs.iter().fold(Default::default(), |mut codes, output| {
            *codes.entry(output.code).or_default() += 1;
            codes
        });
    assert_eq!((joined, certificates), (1, 1), "{codes:?}\n{}", outputs[0]);
    let identities = (0..JOINS).filter(|n| lab.net.path(&format!("join-{n}/cert.pem")).exists());
    assert_eq!(identities.count(), 1);
    let refused = outputs.iter().find(|output| output.code != 0).unwrap();
    assert!(refused.stderr.contains("token"), "{refused}");
    assert!(!refused.stderr.contains(&token), "the token's secret is in a message");
    assert_eq!(codes.len(), 2, "the refusals differ: {codes:?}");
}

#[test]
fn a_token_is_valid_once_until_it_expires_and_only_unaltered() {
    let lab = TestLab::start("tokens", shared());
    let deployment = &lab.deployment;
    let host = &lab.sites.controller;
    deployment.ctl_ok(&["edge", "add", "wanted", "-n", "prod", "--cidr", "10.9.0.0/16"]).unwrap();
    let join = |dir: &str, token: &str| {
        deployment.edge_program(host, &lab.net.path(dir), &["join", token]).unwrap()
    };
    // A revoked token.
    let token = deployment.token("prod", "wanted").unwrap();
    let listed = deployment.ctl_json(&["token", "list", "-n", "prod"]).unwrap();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    deployment.ctl_ok(&["token", "revoke", &id]).unwrap();
    assert_eq!(join("revoked", &token).code, 5);
    // An expired token.
    let args = ["-n", "prod", "--edge", "wanted", "--ttl", "1s"];
    let expired = deployment.token_with(&args).unwrap();
    // Only tokens that can be used are listed.
    let is_expired = || {
        let listed = deployment.ctl_json(&["token", "list", "-n", "prod"]).unwrap();
        listed.as_array().unwrap().is_empty()
    };
    assert!(!is_expired());
    wait_for(TIMEOUT, is_expired).unwrap();
    let output = join("expired", &expired);
    assert_eq!(output.code, 5, "{output}");
    // An altered token: another character near the end of its secret.
    let token = deployment.token("prod", "wanted").unwrap();
    let last = if token.ends_with('A') { 'B' } else { 'A' };
    let mut altered = token.clone();
    altered.replace_range(token.len() - 3..token.len() - 2, &last.to_string());
    assert_ne!(join("altered", &altered).code, 0);
    // A used token.
    join("first", &token).success().unwrap();
    let again = join("second", &token);
    assert_eq!(again.code, 5, "{again}");
    assert!(!lab.net.path("second/cert.pem").exists());
    // The controller logs no token.
    let log = deployment.controller().process().log();
    assert!(!log.contains("cfj1."), "a token is in the log");
}
