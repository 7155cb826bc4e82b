//! Other software on a host of a lab: it does to packets what it does on real hosts, and is gone with the lab.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::time::Duration;

use cframe_testbed::neighbours::{
    self, Docker, Iptables, LinkEvents, Undoing, What, add_routes, run_script,
};
use cframe_testbed::{Host, Lab, Site, privilege, wait_until};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A site whose edge host forwards between two networks behind it.
fn router(lab: &mut Lab) -> (Site, Host) {
    let site = lab.site("site").public("203.0.113.7/24").inner("172.30.0.0/16");
    let site = site.build().unwrap();
    let far = lab.add_network(&site, "10.44.0.0/16").unwrap();
    site.edge().sysctl("ipv4.ip_forward", "1").unwrap();
    site.edge().sysctl("ipv6.conf.all.forwarding", "1").unwrap();
    (site, far)
}

fn passes(site: &Site, far: &Host) -> bool {
    let ping = site.workload().ping(far.address()).count(3);
    ping.run_to_end().unwrap().received > 0
}

fn cgroups(lab: &str) -> String {
    let find = ["/sys/fs/cgroup", "-type", "d", "-name", lab];
    let output = std::process::Command::new("find").args(find).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn docker_runs_containers_behind_its_own_rules_and_leaves_nothing() {
    privilege::ensure().unwrap();
    if privilege::is_inside() {
        println!("docker needs root: not tried");
        return;
    }
    let mut lab = Lab::new("docker").unwrap();
    let (site, far) = router(&mut lab);
    let host = site.edge().clone();
    host.sysctl("ipv4.ip_forward", "0").unwrap();
    let docker = Docker::start(&host).unwrap();
    // It has switched forwarding on, with a policy that drops what others forward.
    let rules = run_script(&host, "iptables-save").unwrap();
    assert!(rules.contains(":FORWARD DROP"), "{rules}");
    assert!(!passes(&site, &far));
    docker.network("site", "172.20.0.0/16").unwrap();
    docker.web("web", "site", 8080).unwrap();
    let page = |from: &Host, url: &str| run_script(from, &format!("curl -sfm5 {url}")).unwrap();
    assert_eq!(page(site.workload(), "http://172.30.0.1:8080"), "a container's page\n");
    assert_eq!(page(&host, "http://172.20.0.2"), "a container's page\n");
    let (id, pid) = (lab.id(), docker.process().pid());
    assert!(!cgroups(&id).is_empty());
    // As if this process was killed: nobody ends the engine in order.
    std::mem::forget(docker);
    lab.remove().unwrap();
    assert_eq!(cgroups(&id), "");
    wait_until(TIMEOUT, || !Path::new(&format!("/proc/{pid}/exe")).exists()).unwrap();
}

#[test]
fn firewalld_forwards_only_between_devices_that_it_trusts() {
    privilege::ensure().unwrap();
    let mut lab = Lab::new("firewalld").unwrap();
    let (site, far) = router(&mut lab);
    assert!(passes(&site, &far));
    neighbours::firewalld(site.edge(), &[]).unwrap();
    let back = far.ping(site.workload().address()).count(3);
    assert_eq!(back.run_to_end().unwrap().received, 0);
    run_script(site.edge(), "nft delete table inet firewalld").unwrap();
    neighbours::firewalld(site.edge(), &["eth2"]).unwrap();
    assert!(passes(&site, &far));
}

#[test]
fn rules_of_kubernetes_let_foreign_packets_pass_and_a_reboot_removes_all_of_them() {
    privilege::ensure().unwrap();
    let mut lab = Lab::new("kube").unwrap();
    let (site, far) = router(&mut lab);
    let host = site.edge();
    let state = || {
        let script = "ip rule; ip -6 rule; ip -br link; ip route show table all; nft list ruleset";
        run_script(host, script).unwrap()
    };
    let before = state();
    for iptables in [Iptables::Nft, Iptables::Legacy] {
        neighbours::kube_proxy(host, iptables).unwrap();
    }
    neighbours::calico(host, Iptables::Nft).unwrap();
    neighbours::cilium(host).unwrap();
    host.ip("tuntap add dev cframe9 mode tun\nlink set cframe9 up").unwrap();
    assert!(passes(&site, &far));
    // For the packets of the site there is only the uplink now.
    neighbours::second_default_route(host, "172.30.0.0/16").unwrap();
    assert!(!passes(&site, &far));
    neighbours::reboot(host, true).unwrap();
    assert_eq!(state(), before);
    assert!(passes(&site, &far));
}

#[test]
fn rules_routes_and_tables_are_undone_as_soon_as_they_are_seen() {
    privilege::ensure().unwrap();
    let mut lab = Lab::new("undoing").unwrap();
    let (site, _) = router(&mut lab);
    let host = site.edge();
    let _undoing =
        [What::Rules, What::Routes, What::Firewall].map(|what| Undoing::start(host, what).unwrap());
    let gone = |make: &str, show: &str| {
        run_script(host, make).unwrap();
        // Before the program listens, nothing is undone.
        wait_until(TIMEOUT, || {
            let is_gone = run_script(host, show).unwrap().is_empty();
            if !is_gone {
                std::thread::sleep(Duration::from_millis(50));
                drop(run_script(host, make));
            }
            is_gone
        })
        .unwrap();
    };
    gone("ip rule add pref 77 lookup 7777", "ip rule show pref 77");
    gone(
        "ip route replace 10.1.0.0/16 dev eth1 table 7777",
        "ip route show table 7777 2>&1 | grep -v FIB || true",
    );
    gone("nft add table inet cframe-a", "nft list tables inet");
}

#[test]
fn many_routes_and_link_events_are_made() {
    privilege::ensure().unwrap();
    let mut lab = Lab::new("flood").unwrap();
    let (site, _) = router(&mut lab);
    add_routes(site.edge(), 2000).unwrap();
    let routes = run_script(site.edge(), "ip route show dev flood0 | wc -l").unwrap();
    assert_eq!(routes.trim(), "2000");
    let events = LinkEvents::start(site.edge(), 20).unwrap();
    wait_until(TIMEOUT, || events.pairs() > 20).unwrap();
}
