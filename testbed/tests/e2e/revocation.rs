//! Edges that were revoked or deleted stay out.

use std::time::Instant;

use cframe_pki::tls::Credentials;
use cframe_testbed::deployment::Edge;

use crate::impostor::{Forge, Impostor};
use crate::lab::{
    DeployedEdges, HK, MS, SECOND, SZ, TIMEOUT, linked, ping, shared, start_pings, wait_for, within,
};

/// Runs a command that cuts off `sz`, and checks how soon its links are gone.
fn cut_off(edges: &DeployedEdges, what: &str, command: &[&str]) {
    let pingers = [&edges.hk, &edges.idc].map(|edge| ping(&edges.sz, edge, 2 * MS));
    let start = Instant::now();
    edges.lab.deployment.ctl_ok(command).unwrap();
    for edge in [&edges.hk, &edges.idc] {
        wait_for(TIMEOUT, || !linked(edge, "aliyun-sz")).unwrap();
    }
    within(&format!("{what} → link gone on every other edge"), start.elapsed(), SECOND);
    for pinger in pingers {
        let stats = pinger.stop();
        let replies = stats.probes.iter().filter_map(|probe| Some(probe.sent + probe.rtt?));
        let last = replies.max().unwrap().saturating_duration_since(start);
        within(&format!("{what} → last reply"), last, SECOND);
    }
}

/// Waits until an edge has refused two more handshakes than `before`, and checks that it has no link to `sz`.
fn wait_refusals(edge: &Edge, before: u64) {
    wait_for(2 * TIMEOUT, || edge.dropped("handshake_refused").unwrap() >= before + 2).unwrap();
    assert!(!linked(edge, "aliyun-sz"), "{:#}", edge.status().unwrap());
}

/// Checks that the others refuse `sz`, and that its workload reaches none of theirs.
fn check_stays_out(edges: &DeployedEdges) {
    let others = [&edges.hk, &edges.idc];
    let before = others.map(|edge| edge.dropped("handshake_refused").unwrap());
    let workload = edges.sz.site().workload();
    let pings = others.map(|edge| start_pings(workload, edge.site().workload().address(), 10 * MS));
    for (edge, before) in others.into_iter().zip(before) {
        wait_refusals(edge, before);
    }
    for pinger in pings {
        let stats = pinger.stop();
        assert_eq!(stats.received, 0, "{stats}");
    }
}

#[test]
fn a_revoked_edge_cannot_come_back() {
    let mut edges = DeployedEdges::start("revoked", shared());
    let stolen = || Credentials::load(edges.sz.dir()).unwrap();
    let forge = Forge::of(&edges.lab.deployment.controller_dir());
    let thief = Impostor::resuming(edges.sz.host(), &forge, stolen());
    let hk = HK.parse().unwrap();
    // Before the revocation the thief is accepted as the edge, and would get a session ticket.
    drop(thief.dial(hk).unwrap());
    cut_off(
        &edges,
        "cert revoke",
        &["cert", "revoke", "--edge", "aliyun-sz", "-n", "prod", "--yes"],
    );
    assert!(!thief.can_resume(hk), "a session can be resumed");
    let refused = thief.dial(hk).unwrap_err();
    assert!(format!("{refused:#}").contains("Revoked"), "{refused:#}");

    edges.sz.kill9().unwrap();
    edges.sz.start().unwrap();
    check_stays_out(&edges);
    for edge in [&mut edges.hk, &mut edges.idc] {
        edge.restart().unwrap();
        edge.wait_links(1).unwrap();
    }
    check_stays_out(&edges);
    edges.lab.deployment.controller_mut().kill9().unwrap();
    edges.lab.deployment.controller_mut().start().unwrap();
    for edge in [&mut edges.hk, &mut edges.idc] {
        edge.wait_synced().unwrap();
    }
    edges.sz.kill9().unwrap();
    edges.sz.start().unwrap();
    check_stays_out(&edges);
    edges.hk.process_mut().wait_for_log("Revoked", TIMEOUT).unwrap();
}

#[test]
fn a_deleted_edge_needs_a_new_token_to_come_back() {
    let mut edges = DeployedEdges::start("deleted", shared());
    cut_off(&edges, "edge del", &["edge", "del", "aliyun-sz", "-n", "prod", "--yes"]);
    let site = edges.sz.site().clone();
    let again = edges.lab.deployment.edge(&site).endpoints(&[SZ]);
    again.add().unwrap();
    edges.sz.kill9().unwrap();
    edges.sz.start().unwrap();
    check_stays_out(&edges);
    for edge in [&mut edges.hk, &mut edges.idc] {
        edge.kill9().unwrap();
        edge.start().unwrap();
        edge.wait_links(1).unwrap();
    }
    edges.lab.deployment.controller_mut().restart().unwrap();
    check_stays_out(&edges);

    edges.sz.stop().unwrap();
    let token = edges.lab.deployment.token("prod", "aliyun-sz").unwrap();
    edges.sz.run(&["join", &token]).unwrap().success().unwrap();
    edges.sz.start().unwrap();
    edges.sz.wait_links(2).unwrap();
    drop(ping(&edges.sz, &edges.hk, 10 * MS));
}

#[test]
fn a_revoked_edge_loses_its_session_with_the_controller() {
    let mut edges = DeployedEdges::start("session", shared());
    let revoke = ["cert", "revoke", "--edge", "idc", "-n", "prod", "--yes"];
    edges.lab.deployment.ctl_ok(&revoke).unwrap();
    edges
        .idc
        .wait_status("no session", TIMEOUT, |status| {
            status["controller"]["connected"].is_null() && !status["state"]["cut_off"].is_null()
        })
        .unwrap();
    edges.idc.kill9().unwrap();
    edges.idc.start().unwrap();
    edges
        .idc
        .wait_status("a refusal", TIMEOUT, |status| {
            status["controller"]["error"].as_str().is_some_and(|error| error.contains("revoked"))
        })
        .unwrap();
}
