//! Edges that misbehave on purpose: the others let nothing through, and count or log the reason.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cframe_pki::identity::{Label, SpiffeId};
use cframe_pki::tls::Credentials;
use cframe_pki::unix_now;
use cframe_testbed::deployment::Edge;
use cframe_testbed::{Host, wait_until};

use crate::impostor::{Forge, Impostor};
use crate::lab::{DeployedEdges, HK, IDC, SZ, TIMEOUT, figure, linked, shared, wait_for};
use crate::traffic::{canary, udp_packet};

const LINK_PORT: u16 = 58423;

/// A packet that a compromised edge sends.
struct Attempt {
    from: &'static str,
    to: &'static str,
    /// The drop counter of its victim.
    reason: &'static str,
}

const ATTEMPTS: [Attempt; 12] = {
    const fn attempt(from: &'static str, to: &'static str, reason: &'static str) -> Attempt {
        Attempt { from, to, reason }
    }
    [
        // From a third site's address, the victim's own, one on the internet, another family.
        attempt("172.18.0.10", "172.30.0.10", "peer_forged_source"),
        attempt("172.30.0.1", "172.30.0.10", "peer_forged_source"),
        attempt("8.8.8.8", "172.30.0.10", "peer_forged_source"),
        attempt("fd00:66::1", "172.30.0.10", "peer_unparsable"),
        // Through the victim to a third site, its host's public address, its docker network, the internet.
        attempt("10.60.6.10", "172.18.0.10", "peer_foreign_destination"),
        attempt("10.60.6.10", "203.0.113.7", "peer_foreign_destination"),
        attempt("10.60.6.10", "172.17.0.10", "peer_foreign_destination"),
        attempt("10.60.6.10", "8.8.8.8", "peer_foreign_destination"),
        attempt("fd00:60::10", "fd00:77::10", "peer_foreign_destination"),
        // To a cloud's metadata service, loopback, multicast.
        attempt("10.60.6.10", "169.254.169.254", "peer_forbidden_address"),
        attempt("10.60.6.10", "127.0.0.1", "peer_forbidden_address"),
        attempt("10.60.6.10", "224.0.0.1", "peer_forbidden_address"),
    ]
};

#[test]
fn a_compromised_edge_sends_as_itself_to_the_peers_site_and_nowhere_else() {
    let mut edges = DeployedEdges::start("forged", shared());
    let docker = edges.lab.net.add_network(&edges.lab.sites.aws_hk, "172.17.0.0/16").unwrap();
    let hosts: [&Host; 3] = [edges.hk.site().workload(), &docker, edges.sz.site().workload()];
    let captures = hosts.map(|host| host.capture("eth0").unwrap());
    let uplink = edges.hk.host().capture("eth0").unwrap();
    let forge = Forge::of(&edges.lab.deployment.controller_dir());
    edges.idc.kill9().unwrap();
    let stolen = Credentials::load(edges.idc.dir()).unwrap();
    let thief = Impostor::new(edges.idc.host(), &forge, stolen);
    let link = thief.dial(HK.parse().unwrap()).unwrap();

    let genuine = canary();
    link.send(&packet("10.60.6.10", "172.30.0.10", &genuine));
    wait_until(TIMEOUT, || captures[0].contains(&genuine).unwrap()).unwrap();
    let canaries: Vec<_> = ATTEMPTS
        .iter()
        .map(|attempt| {
            let Attempt { from, to, reason } = attempt;
            let before = edges.hk.dropped(reason).unwrap();
            let canary = canary();
            link.send(&packet(from, to, &canary));
            let counted = || edges.hk.dropped(reason).unwrap() == before + 1;
            wait_for(TIMEOUT, counted).unwrap_or_else(|_| {
                panic!("{from} → {to} is not {reason}: {:#}", edges.hk.status().unwrap())
            });
            canary
        })
        .collect();
    for bytes in [&[][..], &[0x45], &[0x60; 39], &[0xff; 100], &[0x4f; 30]] {
        link.send(bytes);
    }
    // When the last packet arrives, all others have arrived.
    let last = canary();
    link.send(&packet("10.60.6.10", "172.30.0.10", &last));
    wait_until(TIMEOUT, || captures[0].contains(&last).unwrap()).unwrap();
    for capture in captures.into_iter().chain([uplink]) {
        let pcap = capture.stop().unwrap();
        assert!(canaries.iter().all(|canary| !pcap.contains(canary)));
    }
    let status = edges.hk.status().unwrap();
    figure("what a compromised edge tried, as its peer counted it", &status["drops"]);
    for reason in ["peer_forged_source", "peer_foreign_destination", "peer_forbidden_address"] {
        edges.hk.process_mut().wait_for_log(reason, 2 * TIMEOUT).unwrap();
    }
}

fn packet(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    if from.is_ipv4() != to.is_ipv4() {
        // An IPv6 header too short for its addresses.
        return udp_packet(from, from, payload)[..30].to_vec();
    }
    udp_packet(from, to, payload)
}

#[test]
fn a_workload_that_forges_its_source_gets_no_further_than_its_own_edge() {
    let edges = DeployedEdges::start("spoof", shared());
    let workload = edges.sz.site().workload();
    workload.ip("addr add 172.30.0.77/32 dev lo\naddr add 9.9.9.9/32 dev lo").unwrap();
    let capture = edges.hk.site().workload().capture("eth0").unwrap();
    let canary = canary();
    let before = edges.sz.dropped("tun_foreign_source").unwrap();
    let send = |from: &str| {
        let socket = workload.enter(|| std::net::UdpSocket::bind((from, 0))).unwrap().unwrap();
        socket.send_to(&canary, "172.30.0.10:9").unwrap();
    };
    send("172.30.0.77");
    send("9.9.9.9");
    wait_for(TIMEOUT, || edges.sz.dropped("tun_foreign_source").unwrap() == before + 2).unwrap();
    assert!(!capture.stop().unwrap().contains(&canary));
}

/// Dials until the victim logs this reason for a refusal. It logs refusals at a limited rate.
fn check_refused(victim: &Edge, impostor: &Impostor, at: &str, reason: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let before = victim.dropped("handshake_refused").unwrap();
    let logged = || {
        impostor.dial(at).expect_err(reason);
        let log = victim.process().log();
        log.lines().any(|line| line.contains(" refused ") && line.contains(reason))
    };
    wait_for(2 * TIMEOUT, logged).unwrap_or_else(|_| {
        panic!("no {reason:?} in the log of {}:\n{}", victim.name(), victim.process().log_tail(15))
    });
    assert!(victim.dropped("handshake_refused").unwrap() > before);
}

#[test]
fn certificates_that_are_not_a_peers_are_refused_with_the_reason() {
    let edges = DeployedEdges::start("refused", shared());
    let forge = Forge::of(&edges.lab.deployment.controller_dir());
    let mesh = forge.mesh();
    let label = |text: &str| text.parse::<Label>().unwrap();
    let peer =
        |namespace: &str, name: &str| SpiffeId::edge(mesh.clone(), label(namespace), label(name));
    let expired =
        forge.certify_at(&peer("prod", "idc"), Duration::from_secs(60), unix_now() - 1800);
    let not_yet =
        forge.certify_at(&peer("prod", "idc"), Duration::from_secs(9000), unix_now() + 7200);
    let stranger = Forge::other_mesh(&mesh);
    let cases = [
        (
            &edges.hk,
            HK,
            vec![
                (expired, "certificate expired"),
                (forge.certify(&peer("other", "idc")), "another namespace"),
                (not_yet, "not valid for another"),
            ],
        ),
        (
            &edges.sz,
            SZ,
            vec![
                (forge.certify(&SpiffeId::admin(mesh.clone(), label("root"))), "role admin"),
                (
                    forge.certify(&SpiffeId::controller(mesh.clone(), label("controller"))),
                    "role controller",
                ),
            ],
        ),
        (
            &edges.idc,
            IDC,
            vec![
                (stranger.certify(&peer("prod", "aws-hk")), "not trusted"),
                (forge.certify(&peer("prod", "nobody")), "not a peer in the desired state"),
                (forge.certify(&peer("prod", "idc")), "our own identity"),
            ],
        ),
    ];
    let host = &edges.lab.sites.controller;
    std::thread::scope(|scope| {
        for (victim, at, attempts) in cases {
            let forge = &forge;
            scope.spawn(move || {
                for (credentials, reason) in attempts {
                    check_refused(victim, &Impostor::new(host, forge, credentials), at, reason);
                }
            });
        }
    });
}

#[test]
fn a_host_that_answers_at_a_peers_address_must_be_that_peer() {
    let mut edges = DeployedEdges::start("answers", shared());
    let forge = Forge::of(&edges.lab.deployment.controller_dir());
    let mesh = forge.mesh();
    edges.idc.kill9().unwrap();
    let label = |text: &str| text.parse::<Label>().unwrap();
    let cases = [
        (SpiffeId::edge(mesh.clone(), label("prod"), label("aws-hk")), "where idc was dialled"),
        (SpiffeId::edge(mesh.clone(), label("other"), label("idc")), "another namespace"),
        (SpiffeId::admin(mesh.clone(), label("root")), "role admin"),
    ];
    for (id, reason) in cases {
        let impostor = Impostor::listening(edges.idc.host(), &forge, forge.certify(&id), LINK_PORT);
        edges.sz.process_mut().wait_for_log(reason, 2 * TIMEOUT).unwrap();
        assert!(!linked(&edges.sz, "idc"));
        drop(impostor);
    }
    edges.idc.start().unwrap();
    edges.sz.wait_links(2).unwrap();
}

#[test]
fn the_controllers_ports_admit_only_the_roles_they_are_for() {
    let edges = DeployedEdges::start("ports", shared());
    let dir = edges.lab.net.path("alice.toml");
    let out = dir.to_str().unwrap();
    edges.lab.deployment.ctl_ok(&["admin", "add", "alice", "--read-only", "--out", out]).unwrap();
    let add = ["namespace", "add", "mine"];
    let refused = edges.lab.deployment.ctl_as(&dir, &add).unwrap();
    assert_eq!(refused.code, 5, "{refused}");
    edges.lab.deployment.ctl_as(&dir, &["edge", "list", "-n", "prod"]).unwrap().success().unwrap();
    edges.lab.deployment.ctl_ok(&["admin", "del", "alice", "--yes"]).unwrap();
    let gone = edges.lab.deployment.ctl_as(&dir, &["edge", "list", "-n", "prod"]).unwrap();
    assert_ne!(gone.code, 0, "{gone}");
    assert!(gone.stderr.contains("revoked") || gone.code == 5, "{gone}");
}
