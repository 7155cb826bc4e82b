//! Paths over which no link comes up, or only with help.

use std::collections::BTreeSet;
use std::time::Duration;

use cframe_testbed::WanPath;

use super::{RouterRules, only_links_of_sz, wait_text};
use crate::hosts::support::{MeshStatus, SHOWN, wait_healthy};
use crate::lab::{HK, IDC, SECOND, SZ, TestLab, linked, shared, wait_for, within};

const IDC_V6: &str = "[2001:db8:1::7]:58423";

#[test]
fn a_path_that_is_too_narrow_is_named_in_both_families_and_used_when_it_is_wide() {
    let lab = TestLab::start("narrow", shared());
    let rules = RouterRules(&lab.net);
    // Two bytes too few for each family.
    rules.set(
        "meta nfproto ipv4 meta l4proto udp udp dport 58423 meta length > 1226 drop\n\
               meta nfproto ipv6 meta l4proto udp udp dport 58423 meta length > 1246 drop",
    );
    let mut sz = lab.edge(&lab.sites.aliyun_sz, &[]);
    let _hk = lab.edge(&lab.sites.aws_hk, &[HK]);
    let _idc = lab.edge(&lab.sites.idc, &[IDC_V6]);
    only_links_of_sz(&lab, &["aws-hk", "idc"]);
    wait_text(&lab, "link-too-narrow", "aws-hk", &["too narrow", "1228"]);
    wait_text(&lab, "link-too-narrow", "idc", &["too narrow", "1248"]);
    rules.clear();
    wait_healthy(&lab.deployment, SHOWN);
    sz.wait_links(2).unwrap();
}

#[test]
fn a_path_of_seconds_and_one_that_drops_marked_packets_get_links_and_are_named() {
    let lab = TestLab::start("slowmark", shared());
    let (sz, hk, idc) = (&lab.sites.aliyun_sz, &lab.sites.aws_hk, &lab.sites.idc);
    let far = sz.uplink().wan_to(hk.uplink());
    far.set(&WanPath { delay: Duration::from_millis(2100), ..WanPath::default() }).unwrap();
    let rules = RouterRules(&lab.net);
    rules.set("ip saddr { 192.0.2.7, 198.18.0.7 } ip daddr { 192.0.2.7, 198.18.0.7 } ip ecn != not-ect drop");
    let sz = lab.edge(sz, &[]);
    let _hk = lab.edge(hk, &[HK]);
    let _idc = lab.edge(idc, &[IDC]);
    only_links_of_sz(&lab, &["aws-hk", "idc"]);
    let took = wait_for(30 * SECOND, || linked(&sz, "idc")).unwrap();
    within("a link without marks", took, 15 * SECOND);
    let took = wait_for(60 * SECOND, || linked(&sz, "aws-hk")).unwrap();
    within("a link over a round trip of 4.2 s", took, 40 * SECOND);
    wait_text(&lab, "link-ecn-dropped", "idc", &["ECN"]);
    wait_text(&lab, "link-too-slow", "aws-hk", &["4.2 s"]);
    let codes = || {
        let status = MeshStatus::read(&lab.deployment.operator()).unwrap();
        let codes = status.problems().into_iter().map(|problem| problem["code"].to_string());
        (status.code, codes.collect::<BTreeSet<String>>().len())
    };
    // Warnings.
    wait_for(SHOWN, || codes() == (0, 2)).unwrap();
    far.clear().unwrap();
    wait_for(2 * SHOWN, || codes() == (0, 1)).unwrap();
}

#[test]
fn a_firewall_that_passes_only_first_packets_and_one_that_drops_one_flow_are_named() {
    let lab = TestLab::start("firstonly", shared());
    let rules = RouterRules(&lab.net);
    let flow = "ip saddr . udp sport . ip daddr . udp dport";
    rules.set(&format!(
        "ip saddr {{ 192.0.2.7, 203.0.113.7 }} ip daddr {{ 192.0.2.7, 203.0.113.7 }} meta l4proto udp \
         add @seen {{ {flow} limit rate over 1/day burst 1 packets }} drop"
    ));
    let mut sz = lab.edge(&lab.sites.aliyun_sz, &[SZ]);
    let _hk = lab.edge(&lab.sites.aws_hk, &[HK]);
    wait_text(&lab, "link-one-way", "aws-hk", &["the first packet"]);
    rules.clear();
    wait_healthy(&lab.deployment, SHOWN);
    sz.wait_links(1).unwrap();
    // A link that is up, and whose flow is dropped from now on, in one direction.
    rules.set("ip saddr 192.0.2.7 udp sport 58423 ip daddr 203.0.113.7 udp dport 58423 drop");
    wait_text(&lab, "link-down", "aws-hk", &["aliyun-sz", "aws-hk"]);
    wait_text(&lab, "link-down", "aws-hk", &["another UDP port"]);
    rules.clear();
    wait_healthy(&lab.deployment, SHOWN);
}

#[test]
fn a_narrow_hop_with_icmp_is_named_too() {
    let lab = TestLab::start("narrowicmp", shared());
    let path = lab.sites.aliyun_sz.uplink().wan_to(lab.sites.aws_hk.uplink());
    path.set(&WanPath { mtu: Some(1200), icmp: true, ..WanPath::default() }).unwrap();
    let _sz = lab.edge(&lab.sites.aliyun_sz, &[]);
    let _hk = lab.edge(&lab.sites.aws_hk, &[HK]);
    wait_text(&lab, "link-too-narrow", "aws-hk", &["too narrow", "1228"]);
    path.clear().unwrap();
    wait_healthy(&lab.deployment, SHOWN);
}
