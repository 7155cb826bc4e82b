//! Paths that become worse while a link is up: keep-alives pass, and other packets do not, or not all of them.

use std::time::{Duration, Instant};

use cframe_testbed::{PingStats, Wan, WanPath};

use super::{RouterRules, wait_text};
use crate::hosts::support::{MeshStatus, SHOWN, wait_healthy};
use crate::lab::{
    DeployedPair, MS, SECOND, TIMEOUT, figure, shared, start_pings, wait_for, within,
};

/// A link between `aliyun-sz` and `aws-hk`, and the paths from each to the other.
fn pair(name: &str) -> (DeployedPair, Wan, Wan) {
    let pair = DeployedPair::start(name, shared());
    let (sz, hk) = (pair.dialer.site().uplink(), pair.acceptor.site().uplink());
    let paths = (sz.wan_to(hk), hk.wan_to(sz));
    wait_healthy(&pair.lab.deployment, SHOWN);
    (pair, paths.0, paths.1)
}

fn narrow(mtu: u16) -> WanPath {
    WanPath { mtu: Some(mtu), ..WanPath::default() }
}

fn lossy(percent: f64) -> WanPath {
    WanPath { loss: percent, ..WanPath::default() }
}

#[test]
fn a_path_that_becomes_too_narrow_is_named_also_if_one_direction_does_or_nothing_is_sent() {
    let (pair, there, back) = pair("narrowup");
    // An idle link: only its own checks are lost.
    there.set(&narrow(1000)).unwrap();
    wait_text(&pair.lab, "link-too-narrow", "aws-hk", &["1228", "aliyun-sz says", "aws-hk says"]);
    there.clear().unwrap();
    wait_healthy(&pair.lab.deployment, SHOWN);
    // One direction, with traffic: small packets pass, larger ones do not.
    let small = pair.ping(50 * MS);
    back.set_one_way(&narrow(1000)).unwrap();
    let (from, to) = (pair.dialer.site().workload(), pair.acceptor.site().workload().address());
    let large = from.ping(to).packet_size(1300).interval(50 * MS).start().unwrap();
    wait_text(&pair.lab, "link-too-narrow", "aws-hk", &["1228", "aws-hk says"]);
    small.steady(20, TIMEOUT).unwrap();
    let received = |stats: &PingStats| stats.sent - stats.lost.len();
    let before = received(&large.stats());
    back.clear().unwrap();
    wait_healthy(&pair.lab.deployment, SHOWN);
    wait_for(TIMEOUT, || received(&large.stats()) > before + 20).unwrap();
}

#[test]
fn a_path_that_shrinks_above_the_minimum_in_one_direction_carries_all_packets_again_in_seconds() {
    let (pair, there, _) = pair("shrinkone");
    let (from, to) = (pair.dialer.site().workload(), pair.acceptor.site().workload().address());
    let large = from.ping(to).packet_size(1400).interval(50 * MS).start().unwrap();
    large.steady(20, TIMEOUT).unwrap();
    let start = Instant::now();
    there.set_one_way(&narrow(1300)).unwrap();
    // Until packets of the old size are lost.
    large.steady(40, TIMEOUT).unwrap();
    within("large packets pass again", start.elapsed(), 8 * SECOND);
    let status = MeshStatus::read(&pair.lab.deployment.operator()).unwrap();
    assert_eq!(status.code, 0, "{:#}", status.json);
}

#[test]
fn a_link_that_loses_a_third_of_its_packets_or_all_in_one_direction_is_named() {
    let (pair, there, back) = pair("lossyup");
    let _pings = pair.ping(100 * MS);
    there.set_one_way(&lossy(35.0)).unwrap();
    wait_text(&pair.lab, "link-lossy", "aws-hk", &["% of the packets"]);
    there.clear().unwrap();
    wait_healthy(&pair.lab.deployment, SHOWN);
    back.set_one_way(&lossy(100.0)).unwrap();
    wait_text(&pair.lab, "link-down", "aws-hk", &["aliyun-sz", "aws-hk"]);
    back.clear().unwrap();
    wait_healthy(&pair.lab.deployment, SHOWN);
}

#[test]
fn a_long_path_that_loses_a_twentieth_of_its_packets_is_healthy() {
    let (pair, there, _) = pair("lossyok");
    there.set(&WanPath { delay: Duration::from_millis(150), ..lossy(5.0) }).unwrap();
    let pings = pair.ping(20 * MS);
    let (operator, start) = (pair.lab.deployment.operator(), Instant::now());
    while start.elapsed() < 15 * SECOND {
        let status = MeshStatus::read(&operator).unwrap();
        assert_eq!(status.code, 0, "{:#}", status.json["problems"]);
        std::thread::sleep(300 * MS);
    }
    let stats = pings.stop();
    figure("pings over a path with a loss of 5 % in each direction", &stats);
    assert!(!stats.lost.is_empty(), "nothing was lost: {stats}");
}

#[test]
fn a_path_that_begins_to_drop_marked_packets_is_used_without_marks() {
    let (pair, ..) = pair("markup");
    let rules = RouterRules(&pair.lab.net);
    let ends = "{ 192.0.2.7, 203.0.113.7 }";
    rules.set(&format!("ip saddr {ends} ip daddr {ends} ip ecn != not-ect drop"));
    let pings = start_pings(
        pair.dialer.site().workload(),
        pair.acceptor.site().workload().address(),
        50 * MS,
    );
    let start = Instant::now();
    wait_text(&pair.lab, "link-down", "aws-hk", &[]);
    pings.steady(20, 3 * TIMEOUT).unwrap();
    within("a link whose marks are dropped carries packets again", start.elapsed(), 22 * SECOND);
    wait_healthy(&pair.lab.deployment, SHOWN);
    wait_text(&pair.lab, "link-ecn-dropped", "aws-hk", &["ECN"]);
    rules.clear();
}
