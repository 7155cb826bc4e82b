//! The scenarios of `testbed load`, a hundred times smaller, checked by counts and not by times.

#![allow(clippy::unwrap_used, reason = "tests may")]

use cframe_testbed::load::{Options, Report, Size, measure};

fn load(scenarios: &[&str]) -> Report {
    load_as(scenarios, Size::SMALL, false)
}

fn load_as(scenarios: &[&str], size: Size, etcd: bool) -> Report {
    let only = scenarios.iter().map(|name| (*name).to_owned()).collect();
    measure(&Options { only, check: false, store: None, etcd, size }).unwrap()
}

fn figure(report: &Report, scenario: &str, what: &str) -> f64 {
    let found = report.figure(scenario, what);
    found.unwrap_or_else(|| panic!("no {what} of {scenario} in {:#?}", report.figures()))
}

#[test]
fn an_edit_is_one_small_update_for_each_edge_however_many_routes_there_are() {
    let report = load(&["edit"]);
    for scenario in ["edit", "edit-routes"] {
        let bytes = figure(&report, scenario, "stream bytes per edge and edit");
        assert!(bytes <= 200.0, "{scenario}: {bytes}");
        let updates = figure(&report, scenario, "updates per edge and edit");
        assert_eq!(updates, 1.0, "{scenario}");
    }
}

#[test]
fn a_flapping_route_is_coalesced_and_nothing_else_is_lost() {
    // With fewer edges the controller sends more updates.
    let report = load_as(&["flap"], Size { namespaces: 1, edges: 100, ..Size::SMALL }, false);
    let figure = |what| figure(&report, "flap", what);
    assert!(figure("updates per edge per second") <= 15.0);
    assert_eq!(figure("edges with a different final state"), 0.0);
    assert_eq!(figure("added routes lost"), 0.0);
}

#[test]
fn a_revocation_reaches_everybody_and_outlives_a_restart_of_everything() {
    let report = load(&["revocation"]);
    let figure = |what| figure(&report, "revocation", what);
    assert_eq!(figure("denials missing at edges after a restart of everything"), 0.0);
    assert_eq!(figure("revoked edges with a session after it"), 0.0);
}

#[test]
fn revocations_and_edges_that_come_back_are_the_same_with_the_store_in_etcd() {
    let report = load_as(&["revocation", "return-many"], Size::SMALL, true);
    for none in [
        "denials missing at edges after a restart of everything",
        "revoked edges with a session after it",
    ] {
        assert_eq!(figure(&report, "revocation", none), 0.0, "{none}");
    }
    assert!(figure(&report, "return-many", "handshakes per edge") <= 1.5);
}

#[test]
fn edges_come_back_to_a_controller_that_was_killed_with_one_handshake_each() {
    let report = load(&["return-many"]);
    let figure = |what| figure(&report, "return-many", what);
    let handshakes = figure("handshakes per edge");
    assert!(handshakes <= 1.5, "{handshakes}");
    let memory = figure("controller, peak memory");
    assert!(memory <= 64.0, "{memory} MiB");
}

#[test]
fn edges_with_a_problem_each_are_one_group_and_their_links_are_not_missed() {
    let report = load(&["problems"]);
    let figure = |what| figure(&report, "problems", what);
    assert!(figure("edges with a problem at once, at most") >= 1.0);
    assert!(figure("groups in the last status") <= 1.0);
    assert_eq!(figure("links that are down, at most"), 0.0);
}
