//! What is taken from an edge stays taken.

use std::time::Instant;

use cframe_pki::tls::Credentials;
use cframe_testbed::deployment::Edge;
use cframe_testbed::wait_until;

use crate::impostor::{Forge, Impostor};
use crate::world::{HK, MS, PATIENCE, SECOND, World, linked, ping, pinging, shared, within};

/// Runs a command that cuts `sz` off, and checks how soon its links are gone.
fn cut_off(world: &World, what: &str, command: &[&str]) {
    let pingers = [&world.hk, &world.idc].map(|edge| ping(&world.sz, edge, 2 * MS));
    let start = Instant::now();
    world.mesh.deployment.ctl_ok(command).unwrap();
    for edge in [&world.hk, &world.idc] {
        wait_until(PATIENCE, || !linked(edge, "aliyun-sz")).unwrap();
    }
    within(&format!("{what} → link gone on every other edge"), start.elapsed(), SECOND);
    for pinger in pingers {
        let stats = pinger.stop();
        let replies = stats.probes.iter().filter_map(|probe| Some(probe.sent + probe.rtt?));
        let last = replies.max().unwrap().saturating_duration_since(start);
        within(&format!("{what} → last reply"), last, SECOND);
    }
}

/// Waits until this edge has turned somebody away since it counted `before`, and checks that `sz` isn't linked.
fn refuses(edge: &Edge, before: u64) {
    wait_until(2 * PATIENCE, || edge.dropped("handshake_refused").unwrap() >= before + 2).unwrap();
    assert!(!linked(edge, "aliyun-sz"), "{:#}", edge.status().unwrap());
}

fn stays_out(world: &World) {
    let others = [&world.hk, &world.idc];
    let before = others.map(|edge| edge.dropped("handshake_refused").unwrap());
    let workload = world.sz.site().workload();
    let pings = others.map(|edge| pinging(workload, edge.site().workload().address(), 10 * MS));
    for (edge, before) in others.into_iter().zip(before) {
        refuses(edge, before);
    }
    for pinger in pings {
        let stats = pinger.stop();
        assert_eq!(stats.received, 0, "{stats}");
    }
}

#[test]
fn a_revoked_edge_cannot_come_back() {
    let mut world = World::start("revoked", shared());
    let stolen = || Credentials::load(world.sz.dir()).unwrap();
    let forge = Forge::of(&world.mesh.deployment.controller_dir());
    let thief = Impostor::resuming(world.sz.host(), &forge, stolen());
    let hk = HK.parse().unwrap();
    // Before the revocation the thief is the edge, and gets what tickets there are.
    drop(thief.dial(hk).unwrap());
    cut_off(
        &world,
        "cert revoke",
        &["cert", "revoke", "--edge", "aliyun-sz", "-n", "prod", "--yes"],
    );
    assert!(!thief.can_resume(hk), "a session can be resumed");
    let refused = thief.dial(hk).unwrap_err();
    assert!(format!("{refused:#}").contains("Revoked"), "{refused:#}");

    world.sz.kill9().unwrap();
    world.sz.start().unwrap();
    stays_out(&world);
    for edge in [&mut world.hk, &mut world.idc] {
        edge.restart().unwrap();
        edge.wait_links(1).unwrap();
    }
    stays_out(&world);
    world.mesh.deployment.kill9_controller().unwrap();
    world.mesh.deployment.start_controller().unwrap();
    for edge in [&mut world.hk, &mut world.idc] {
        edge.wait_synced().unwrap();
    }
    world.sz.kill9().unwrap();
    world.sz.start().unwrap();
    stays_out(&world);
    world.hk.process_mut().wait_for_log("Revoked", PATIENCE).unwrap();
}

#[test]
fn a_deleted_edge_is_let_in_again_by_a_new_token_only() {
    let mut world = World::start("deleted", shared());
    cut_off(&world, "edge del", &["edge", "del", "aliyun-sz", "-n", "prod", "--yes"]);
    let site = world.sz.site().clone();
    let again = world.mesh.deployment.edge(&site).endpoints(&["192.0.2.7:58423"]);
    again.add().unwrap();
    world.sz.kill9().unwrap();
    world.sz.start().unwrap();
    stays_out(&world);
    for edge in [&mut world.hk, &mut world.idc] {
        edge.kill9().unwrap();
        edge.start().unwrap();
        edge.wait_links(1).unwrap();
    }
    world.mesh.deployment.restart_controller().unwrap();
    stays_out(&world);

    world.sz.stop().unwrap();
    let token = world.mesh.deployment.token("prod", "aliyun-sz").unwrap();
    world.sz.run(&["join", &token]).unwrap().success().unwrap();
    world.sz.start().unwrap();
    world.sz.wait_links(2).unwrap();
    drop(ping(&world.sz, &world.hk, 10 * MS));
}

#[test]
fn a_revoked_edge_that_stole_a_live_session_with_the_controller_loses_it() {
    let mut world = World::start("session", shared());
    world
        .mesh
        .deployment
        .ctl_ok(&["cert", "revoke", "--edge", "idc", "-n", "prod", "--yes"])
        .unwrap();
    world
        .idc
        .wait_status("no session", PATIENCE, |status| {
            status["controller"]["connected"].is_null() && !status["state"]["cut_off"].is_null()
        })
        .unwrap();
    world.idc.kill9().unwrap();
    world.idc.start().unwrap();
    world
        .idc
        .wait_status("a refusal", PATIENCE, |status| {
            status["controller"]["error"].as_str().is_some_and(|error| error.contains("Revoked"))
        })
        .unwrap();
}
