//! Devices and settings of the host that are not the edge's own.

use cframe_testbed::Host;

use crate::lab::{DeployedPair, IDC, SECOND, TIMEOUT, TestLab, ip, ping, shared, wait_for, within};

const MS_10: std::time::Duration = std::time::Duration::from_millis(10);

fn devices(host: &Host) -> String {
    ip(host, &["-brief", "link"])
}

#[test]
fn only_a_device_of_the_edge_is_ever_removed_or_taken_over() {
    let lab = TestLab::start("foreign", shared());
    let host = lab.sites.idc.edge();
    host.ip("link add br0 type bridge").unwrap();
    host.ip("tuntap add dev tun7 mode tun").unwrap();
    let before = devices(host);
    let dir = lab.net.path("nobody");
    for name in ["eth0", "eth1", "br0", "tun7"] {
        for command in ["down", "run"] {
            let args = ["--instance", name, command];
            let output = lab.deployment.edge_program(host, &dir, &args).unwrap();
            let said = format!("{}{}", output.stdout, output.stderr);
            assert_ne!(output.code, 0, "{name} {command}: {said}");
            if command == "down" {
                assert_eq!(output.code, 4, "{said}");
                assert!(said.contains(name) && said.contains("not of cframe-edge"), "{said}");
            }
        }
    }
    assert_eq!(devices(host), before);

    // With an identity, too.
    let mut edge = lab.edge(&lab.sites.idc, &[IDC]);
    edge.stop().unwrap();
    let args = ["--instance", "tun7", "run"];
    let output = lab.deployment.edge_program(host, edge.dir(), &args).unwrap();
    assert!(output.code != 0 && output.stderr.contains("not of cframe-edge"), "{}", output.stderr);
    assert!(devices(host).contains("tun7"));
}

#[test]
fn a_device_that_got_another_name_is_made_again_and_leaves_no_orphan() {
    let pair = DeployedPair::start("renamed", shared());
    let pinger = ping(&pair.dialer, &pair.acceptor, MS_10);
    let host = pair.dialer.host();
    host.ip("link set cframe0 down\nlink set cframe0 name other\nlink set other up").unwrap();
    let is_back = || {
        let devices = devices(host);
        devices.contains("cframe0") && !devices.contains("other")
    };
    let took =
        wait_for(TIMEOUT, is_back).unwrap_or_else(|error| panic!("{error}: {}", devices(host)));
    within("device renamed → made again, without the other", took, 2 * SECOND);
    pinger.steady(20, TIMEOUT).unwrap();
}

/// `accept_ra` of both devices, and IPv6 forwarding.
fn settings(host: &Host) -> [String; 3] {
    ["conf.eth0.accept_ra", "conf.eth1.accept_ra", "conf.all.forwarding"].map(|key| {
        let mut command = host.command("sysctl");
        command.args(["-n", &format!("net.ipv6.{key}")]);
        crate::lab::output(command).trim().to_owned()
    })
}

#[test]
fn router_advertisements_stay_accepted_where_the_default_route_comes_from_one() {
    let lab = TestLab::start("ra", shared());
    let site = &lab.sites.idc;
    let host = site.edge();
    for advertised in [false, true] {
        let reset = [("all.forwarding", "0"), ("eth0.accept_ra", "1"), ("eth1.accept_ra", "1")];
        for (key, value) in reset {
            host.sysctl(&format!("ipv6.conf.{key}"), value).unwrap();
        }
        if advertised {
            let route = ip(host, &["-6", "route", "show", "default"]);
            let route = route.lines().next().unwrap().split(" metric").next().unwrap();
            let words: Vec<&str> = route.split(' ').collect();
            ip(host, &[&["-6", "route", "replace"], &words[..], &["proto", "ra"]].concat());
        }
        let before = settings(host);
        let name = format!("idc-{advertised}");
        let cidr = format!("fd00:7{}::/48", u8::from(advertised));
        let enrolment = lab.deployment.edge(site).name(&name).cidrs(&[&cidr]).endpoints(&[IDC]);
        let mut edge = enrolment.enrol().unwrap();
        let wanted = [if advertised { "2" } else { "1" }, "1", "1"];
        wait_for(TIMEOUT, || settings(host) == wanted).unwrap_or_else(|error| {
            panic!("{advertised}: {error}: {:?}\n{}", settings(host), edge.process().log())
        });
        let log = edge.process().log();
        assert_eq!(
            log.contains("the default route of this device is advertised"),
            advertised,
            "{log}"
        );
        edge.stop().unwrap();
        edge.run(&["down"]).unwrap().success().unwrap();
        // Without an advertised default route nothing is lost by forwarding, and it stays on.
        let [eth0, eth1, _] = before.clone();
        let after = if advertised { before } else { [eth0, eth1, "1".to_owned()] };
        assert_eq!(settings(host), after);
        lab.deployment.ctl_ok(&["edge", "del", &name, "-n", "prod", "--yes"]).unwrap();
    }
}
