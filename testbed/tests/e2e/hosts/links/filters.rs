//! Reverse path filters of a gateway, which drop what its peers answer.

use super::wait_text;
use crate::hosts::support::{FIXED, SHOWN, doctor, fix_of, wait_healthy};
use crate::lab::{HK, SZ, TestLab, shared, wait_for};

#[test]
fn a_reverse_path_filter_that_drops_answers_is_named_with_a_fix_that_works() {
    let lab = TestLab::start("filters", shared());
    let sz = lab.edge(&lab.sites.aliyun_sz, &[SZ]);
    // Its own public network is in the mesh: without the edge's mark, the way to it is the tunnel.
    let hk = lab.deployment.edge(&lab.sites.aws_hk).endpoints(&[HK]);
    let _hk = hk.cidrs(&["172.30.0.0/16", "203.0.113.0/24"]).enrol().unwrap();
    wait_healthy(&lab.deployment, 2 * SHOWN);
    for (filter, words, end) in [
        (
            "nft add table inet rpf\n\
             nft add chain inet rpf pre '{ type filter hook prerouting priority -310; }'\n\
             nft add rule inet rpf pre fib saddr . mark . iif oif missing drop",
            "fib saddr . mark . iif oif",
            "nft delete table inet rpf",
        ),
        (
            "sysctl -qw net.ipv4.conf.eth0.rp_filter=1",
            "the reverse path filter of eth0",
            "sysctl -qw net.ipv4.conf.eth0.rp_filter=0",
        ),
    ] {
        assert_eq!(sz.shell(filter).unwrap().code, 0);
        let problem = wait_text(&lab, "reply-filtered", "in", &[words]);
        let agrees = || {
            let (code, found) = doctor(&sz);
            code == 7 && found["problems"].to_string().contains("reply-filtered")
        };
        wait_for(SHOWN, agrees).unwrap();
        let fix = fix_of(&problem);
        let pasted = sz.shell(fix).unwrap();
        assert_eq!(pasted.code, 0, "{fix}: {pasted}");
        wait_healthy(&lab.deployment, 2 * FIXED);
        assert_eq!(sz.shell(end).unwrap().code, 0);
    }
}
