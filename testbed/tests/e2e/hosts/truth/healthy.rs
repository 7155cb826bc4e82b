//! Other software whose rules let packets pass: nothing is reported.

use std::time::Instant;

use cframe_testbed::neighbours::{self, Docker, Iptables};
use cframe_testbed::privilege;

use super::{Bed, WATCHED};
use crate::hosts::support::{SHOWN, doctor, paste_fix_at, problems, wait_problem};
use crate::lab::figure;

#[test]
fn docker_firewalld_and_kubernetes_that_let_packets_pass_are_no_problem() {
    let bed = Bed::start("healthy");
    // Each gateway has another neighbour.
    neighbours::firewalld(bed.sz.host(), &["cframe0"]).unwrap();
    for iptables in [Iptables::Nft, Iptables::Legacy] {
        neighbours::kube_proxy(bed.idc.host(), iptables).unwrap();
    }
    neighbours::calico(bed.idc.host(), Iptables::Nft).unwrap();
    neighbours::cilium(bed.idc.host()).unwrap();
    let docker = (!privilege::is_inside()).then(|| {
        let docker = Docker::start(bed.hk.host()).unwrap();
        docker.network("site", "172.20.0.0/16").unwrap();
        docker.web("web", "site", 8080).unwrap();
        docker
    });
    // As it is when docker starts before the edge.
    bed.run(
        "iptables -P FORWARD DROP\n\
         iptables -I DOCKER-USER -i cframe0 -j ACCEPT\n\
         iptables -I DOCKER-USER -o cframe0 -j ACCEPT\n\
         ip6tables -P FORWARD DROP\n\
         ip6tables -I FORWARD -i cframe0 -j ACCEPT\n\
         ip6tables -I FORWARD -o cframe0 -j ACCEPT",
    );
    bed.verdict.wait_well("with neighbours", SHOWN);
    let start = Instant::now();
    let mut checked = 0;
    while start.elapsed() < WATCHED {
        let status = bed.status();
        assert_eq!(status.code, 0, "{:#}", status.json);
        assert!(bed.verdict.all_pass(), "{:?}", bed.verdict.probes().broken());
        for edge in [&bed.sz, &bed.hk, &bed.idc] {
            let (code, found) = doctor(edge);
            assert_eq!(code, 0, "{}: {found:#}", edge.name());
        }
        checked += 1;
    }
    figure("status and doctor with neighbours", format_args!("0 of {checked} times 7 (bound 0)"));
    bed.verdict.check("with neighbours");
    bed.clear.check("with neighbours");
    drop(docker);
}

#[test]
fn a_docker_engine_whose_policy_drops_forwarded_packets_is_named_and_its_fix_works() {
    if privilege::is_inside() {
        println!("docker needs root: not tried");
        return;
    }
    let bed = Bed::start("docker-drop");
    let docker = Docker::start(bed.hk.host()).unwrap();
    bed.run("iptables -P FORWARD DROP");
    assert!(bed.verdict.wait_broken(SHOWN));
    let problem = wait_problem(&bed.lab.deployment, "forward-blocked", "prod/aws-hk", SHOWN);
    figure("docker: fix", &problem["fix"]);
    // One for each direction.
    for problem in problems(&bed.hk).iter().filter(|found| found["code"] == "forward-blocked") {
        paste_fix_at(&bed.hk, problem);
    }
    bed.verdict.wait_well("docker after its fix", SHOWN);
    // What docker makes again when a container starts does not undo it.
    docker.network("site", "172.20.0.0/16").unwrap();
    docker.web("web", "site", 8080).unwrap();
    bed.verdict.wait_well("docker after a container's start", SHOWN);
    bed.verdict.check("with docker's policy");
    bed.clear.check("with docker's policy");
}
