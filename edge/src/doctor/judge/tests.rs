use super::*;
use crate::{
    doctor::{Captured, Certificate},
    status::{ControllerStatus, DeviceStatus, RouteStatus, StateStatus},
};

const DAY: u64 = 86_400;
const NOW: u64 = 1_763_000_000;

fn healthy() -> Facts {
    let status = Status {
        listen: 58423,
        state: StateStatus { own: vec!["10.1.0.0/16".to_owned()], ..StateStatus::default() },
        controller: ControllerStatus {
            connected: Some("203.0.113.1:58422".parse().unwrap()),
            ..ControllerStatus::default()
        },
        device: DeviceStatus { name: "cframe0".to_owned(), index: 7, mtu: 1400, present: true },
        routes: RouteStatus {
            intended: 4,
            installed: 4,
            sources: vec!["10.1.0.5".parse().unwrap()],
            ..RouteStatus::default()
        },
        links: vec![LinkStatus {
            peer: "aws-hk".to_owned(),
            up: true,
            largest_inner: 1400,
            black_holes: 0,
            addresses: vec!["203.0.113.7:58423".parse().unwrap()],
            ..LinkStatus::default()
        }],
        ..Status::default()
    };
    Facts {
        daemon: Some(status),
        certificate: Some(Certificate { not_before: NOW - DAY, not_after: NOW + 29 * DAY }),
        clock: NOW,
        synchronised: Some(true),
        forward_v4: Some(1),
        forward_policy: Some(ForwardPolicy::Accept),
        ..Facts::default()
    }
}

/// Changes one thing on a healthy host and returns the one finding that is bad then.
fn only_wrong(change: impl FnOnce(&mut Facts, &mut Status)) -> Finding {
    let mut facts = healthy();
    let mut status = facts.daemon.take().unwrap();
    change(&mut facts, &mut status);
    facts.daemon = Some(status);
    let mut wrong: Vec<Finding> =
        findings(&facts).into_iter().filter(|finding| !finding.ok).collect();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    let wrong = wrong.remove(0);
    assert!(wrong.fix.is_some(), "{wrong:?}");
    wrong
}

#[test]
fn a_healthy_host_has_nothing_to_fix() {
    for finding in findings(&healthy()) {
        assert!(finding.ok, "{finding}");
        assert_eq!(finding.fix, None);
    }
}

#[test]
fn without_a_daemon_the_rest_is_still_judged() {
    let facts = Facts { daemon: None, ..healthy() };
    let findings = findings(&facts);
    assert!(!findings[0].ok && findings[0].check == "daemon");
    assert!(findings.iter().any(|finding| finding.check == "certificate" && finding.ok));
    assert!(findings.iter().any(|finding| finding.check == "ip_forward" && finding.ok));
}

#[test]
fn a_clock_before_the_certificate_or_the_state_is_wrong() {
    let wrong = only_wrong(|facts, _| {
        facts.clock = NOW - 2 * DAY;
    });
    assert_eq!(wrong.check, "clock");
    let wrong = only_wrong(|facts, _| facts.snapshot_saved = Some(NOW + DAY));
    assert_eq!(wrong.check, "clock");
}

#[test]
fn a_certificate_is_reported_from_fourteen_days_before_its_end_and_after_it() {
    let wrong = only_wrong(|facts, _| facts.clock = NOW + 16 * DAY);
    assert!(wrong.check == "certificate" && wrong.found.contains("days left"), "{wrong}");
    let wrong = only_wrong(|facts, _| facts.clock = NOW + 31 * DAY);
    assert!(wrong.fix.unwrap().contains("--rejoin"));
}

#[test]
fn a_host_that_does_not_forward_is_told_how_to() {
    let wrong = only_wrong(|facts, _| facts.forward_v4 = Some(0));
    assert!(wrong.fix.unwrap().contains("ip_forward=1"));
    let wrong = only_wrong(|facts, status| {
        status.state.own.push("fd00:1::/48".to_owned());
        facts.forward_v6 = Some(0);
    });
    assert!(wrong.fix.unwrap().contains("accept_ra=2"));
    let chains = vec!["ip filter FORWARD".to_owned()];
    let wrong = only_wrong(|facts, _| facts.forward_policy = Some(ForwardPolicy::Drop(chains)));
    assert_eq!(wrong.check, "FORWARD policy");
}

#[test]
fn a_captured_endpoint_is_ok_while_its_packets_bypass_the_tunnel() {
    let captured = |bypassed| Captured {
        address: "10.2.0.9".parse().unwrap(),
        bypassed,
        device: Some("eth0".to_owned()),
    };
    let mut facts = healthy();
    facts.captured = vec![captured(true)];
    assert!(findings(&facts).iter().all(|finding| finding.ok));
    let wrong = only_wrong(|facts, _| facts.captured = vec![captured(false)]);
    assert_eq!(wrong.check, "endpoint");
    let wrong = only_wrong(|facts, _| {
        facts.captured = vec![captured(true)];
        facts.strict_filters = vec!["eth0".to_owned()];
    });
    assert!(wrong.fix.unwrap().contains("rp_filter=2"));
}

#[test]
fn a_link_that_is_down_says_which_port_to_open() {
    let wrong = only_wrong(|_, status| status.links[0].up = false);
    assert!(wrong.fix.unwrap().contains("203.0.113.7:58423"));
    let wrong = only_wrong(|_, status| {
        status.links[0].up = false;
        status.links[0].addresses.clear();
    });
    assert!(wrong.fix.unwrap().contains("port 58423"));
}

#[test]
fn for_a_peer_that_is_refused_for_its_certificate_no_port_has_to_be_opened() {
    let wrong = only_wrong(|_, status| {
        status.links[0].up = false;
        status.links[0].reason = Some("this edge: invalid peer certificate: Revoked".to_owned());
    });
    let fix = wrong.fix.unwrap();
    assert!(fix.contains("cfctl cert list") && !fix.contains("UDP"), "{fix}");
}

#[test]
fn routes_overlaps_and_a_missing_controller_are_reported() {
    let wrong = only_wrong(|_, status| {
        status.routes.installed = 3;
        status.routes.missing = vec!["10.2.0.0/16 metric 100".to_owned()];
    });
    assert!(wrong.found.contains("10.2.0.0/16"));
    let overlap = "172.17.0.0/16 (here) and 172.16.0.0/12 (mesh)".to_owned();
    let wrong = only_wrong(|_, status| status.routes.overlaps = vec![overlap]);
    assert_eq!(wrong.check, "overlap");
    let wrong = only_wrong(|_, status| status.controller.connected = None);
    assert_eq!(wrong.check, "controller");
    let wrong = only_wrong(|_, status| status.state.cut_off = Some("revoked".to_owned()));
    assert_eq!(wrong.check, "membership");
}

#[test]
fn an_underlay_too_small_for_quic_is_reported() {
    let wrong = only_wrong(|facts, _| facts.device_mtu = vec![("eth0".to_owned(), 1200)]);
    assert_eq!(wrong.check, "MTU");
}
