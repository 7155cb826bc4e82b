//! Endpoints that are wrong.

use cframe_testbed::{Nat, Site};

use super::dns::{self, NoNames};
use super::{only_links_of_sz, wait_text};
use crate::hosts::support::{SHOWN, wait_healthy};
use crate::lab::{HK, IDC, SZ, TestLab, shared};

/// One more site, with the number `n` in its addresses.
fn site(lab: &mut TestLab, n: u8) -> Site {
    let site = lab.net.site(&format!("e{n}")).public(&format!("100.7{n}.0.7/24"));
    site.inner(&format!("10.7{n}.0.0/16")).build().unwrap()
}

fn set_endpoints(lab: &TestLab, edge: &str, endpoints: &[&str]) -> String {
    let mut set = vec!["edge", "set", edge, "-n", "prod"];
    endpoints.iter().for_each(|endpoint| set.extend(["--endpoint", endpoint]));
    let output = lab.deployment.ctl(&set).unwrap();
    assert_eq!(output.code, 0, "{output}");
    output.stderr
}

#[test]
fn each_wrong_endpoint_is_named_for_what_it_is_until_it_is_right() {
    let mut lab = TestLab::start("endpoints", shared());
    let (self_site, other_site) = (site(&mut lab, 4), site(&mut lab, 5));
    let silent = dns::silent(lab.sites.aliyun_sz.edge());
    // Only `aliyun-sz` can dial the others: it has no endpoint.
    let _sz = lab.edge(&lab.sites.aliyun_sz, &[]);
    let edges = [
        lab.edge(&lab.sites.aws_hk, &["gw.example.com:58423"]),
        lab.edge(&lab.sites.idc, &["198.51.100.99:58423"]),
        lab.edge(&self_site, &[SZ]),
        lab.edge(&other_site, &[HK]),
    ];
    only_links_of_sz(&lab, &edges.each_ref().map(|edge| edge.name()));
    wait_text(&lab, "endpoint-is-self", "e4", &[SZ, "e4", "itself"]);
    wait_text(&lab, "endpoint-is-other", "e5", &[HK, "the edge aws-hk answers"]);
    wait_text(&lab, "link-down", "idc", &["no answer from 198.51.100.99:58423"]);
    wait_text(&lab, "endpoint-unresolved", "aws-hk", &["gw.example.com", "no DNS server answers"]);
    drop(silent);
    let names = NoNames::start(lab.sites.aliyun_sz.edge());
    let unknown = ["gw.example.com:58423", "does not resolve"];
    let problem = wait_text(&lab, "endpoint-unresolved", "aws-hk", &unknown);
    let fix = problem["fix"].as_str().unwrap();
    assert!(fix.contains("cfctl edge set aws-hk --namespace prod --endpoint"), "{fix}");
    drop(names);

    for (edge, endpoint) in
        [("aws-hk", HK), ("idc", IDC), ("e4", "100.74.0.7:58423"), ("e5", "100.75.0.7:58423")]
    {
        set_endpoints(&lab, edge, &[endpoint]);
    }
    wait_healthy(&lab.deployment, SHOWN);
}

#[test]
fn an_endpoint_that_another_edge_has_is_warned_of_and_shown() {
    let lab = TestLab::start("sameend", shared());
    let _hk = lab.edge(&lab.sites.aws_hk, &[HK]);
    let add = ["edge", "add", "idc", "-n", "prod", "--cidr", "10.60.6.0/24", "--endpoint", HK];
    let added = lab.deployment.ctl(&add).unwrap();
    assert!(added.code == 0 && added.stderr.contains("aws-hk"), "{added}");
    wait_text(&lab, "same-endpoint", "idc", &["aws-hk", "idc", HK]);
    set_endpoints(&lab, "idc", &[IDC]);
    let warned = set_endpoints(&lab, "idc", &[HK]);
    assert!(warned.contains("aws-hk") && warned.contains(HK), "{warned}");
}

#[test]
fn two_gateways_behind_a_nat_that_does_not_hairpin_get_a_link_with_the_private_address() {
    let mut lab = TestLab::with("hairpin", "lab", Some(Nat::one_to_one()), shared());
    let second = site(&mut lab, 6);
    let sz = lab.sites.aliyun_sz.clone();
    let private = sz.share_nat(&second).unwrap();
    let nat = sz.nat().unwrap();
    // All other ports are forwarded to the first.
    nat.netns()
        .nft(&format!(
            "insert rule inet nat inwards iifname eth0 udp dport 58424 dnat ip to {private}\n"
        ))
        .unwrap();
    let public = "192.0.2.7:58424";
    let _edges = [lab.edge(&sz, &[SZ]), lab.edge(&second, &[public])];
    let _outside = lab.edge(&lab.sites.aws_hk, &[HK]);
    let problem = wait_text(&lab, "link-down", "e6", &["one NAT", "no hairpinning"]);
    let fix = problem["fix"].as_str().unwrap();
    assert!(fix.contains("add the private address as an endpoint"), "{fix}");
    // What the fix says, with the address put in.
    set_endpoints(&lab, "e6", &[public, &format!("{private}:58424")]);
    wait_healthy(&lab.deployment, SHOWN);
}
