//! What an observer of the underlay sees.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use cframe_testbed::deployment::Edge;
use cframe_testbed::{Host, Pcap, http, wait_until};

use crate::initial::{client_hellos, extensions};
use crate::lab::{HK, IDC, MS, SZ, TIMEOUT, TestLab, figure, ping, shared};
use crate::traffic::{canary, echo};

/// The `server_name` extension (RFC 6066 §3).
const SERVER_NAME: u16 = 0;
const MESH: &str = "canary.mesh.example";
const NAMESPACE: &str = "tenant-of-secrets";
const EDGES: [&str; 3] = ["gateway-alpha", "gateway-bravo", "gateway-gamma"];

#[test]
fn the_underlay_shows_no_inner_payload_no_inner_address_and_no_name() {
    let lab = TestLab::with("secrecy", MESH, None, shared());
    lab.deployment.ctl_ok(&["namespace", "add", NAMESPACE]).unwrap();
    let sites = lab.sites.sites();
    let mut captures: Vec<_> = sites.iter().map(|site| site.uplink().capture().unwrap()).collect();
    captures.push(lab.sites.controller.uplink().capture().unwrap());
    let mut edges: Vec<Edge> = sites
        .iter()
        .zip([SZ, HK, IDC].into_iter().zip(EDGES))
        .map(|(site, (endpoint, name))| {
            let edge = lab.deployment.edge(site).namespace(NAMESPACE).name(name);
            edge.endpoints(&[endpoint]).enrol().unwrap()
        })
        .collect();
    for edge in &mut edges {
        edge.wait_links(2).unwrap();
        edge.wait_synced().unwrap();
    }
    let secret = canary();
    let hosts = sites.map(|site| site.workload().clone());
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        send_everything([&hosts[from], &hosts[to]], &secret);
        drop(ping(&edges[from], &edges[to], 5 * MS));
    }
    // Desired state and a revocation.
    let add = ["route", "add", "pods-of-bravo", "-n", NAMESPACE, "--cidr", "10.244.0.0/16"];
    lab.deployment.ctl_ok(&[&add[..], &["--edge", EDGES[1], "--wait"]].concat()).unwrap();
    let revoke = ["cert", "revoke", "--edge", EDGES[2], "-n", NAMESPACE, "--yes"];
    lab.deployment.ctl_ok(&revoke).unwrap();
    edges[0].wait_links(1).unwrap();

    let pcaps: Vec<Pcap> = captures.into_iter().map(|capture| capture.stop().unwrap()).collect();
    let needles = needles(&secret, &hosts);
    for (what, needle) in &needles {
        assert!(pcaps.iter().all(|pcap| !pcap.contains(needle)), "{what} is on the wire");
    }
    let hellos: Vec<Vec<u8>> = pcaps.iter().flat_map(client_hellos).collect();
    assert!(hellos.len() >= 9, "only {} handshakes were seen", hellos.len());
    for hello in &hellos {
        let extensions = extensions(hello).expect("a whole client hello");
        assert!(!extensions.contains(&SERVER_NAME), "a handshake names its server");
        for (what, needle) in &needles {
            let contains = hello.windows(needle.len()).any(|window| window == &needle[..]);
            assert!(!contains, "{what} is in a client hello");
        }
    }
    let packets: usize = pcaps.iter().map(|pcap| pcap.packets().len()).sum();
    let bytes: usize =
        pcaps.iter().flat_map(|pcap| pcap.packets()).map(|packet| packet.bytes.len()).sum();
    figure(
        "underlay traffic searched",
        format_args!(
            "{packets} packets, {:.1} MB, {} client hellos opened; {} needles, 0 found",
            bytes as f64 / 1e6,
            hellos.len(),
            needles.len()
        ),
    );
}

/// Sends UDP there and back, and HTTP, with the secret in it.
fn send_everything([from, to]: [&Host; 2], secret: &[u8]) {
    let at = SocketAddr::new(to.address(), 7007);
    let echo = echo(to, at);
    let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    let large = secret.repeat(100);
    wait_until(TIMEOUT, || {
        socket.send_to(secret, at).unwrap();
        socket.send_to(&large, at).unwrap();
        echo.counted() > 20
    })
    .unwrap();
    let body = secret.repeat(1000);
    let server = http::Server::start(to, 8080, body.clone()).unwrap();
    assert_eq!(http::fetch(from, server.address()).unwrap(), body);
}

/// What must not be visible: a description, and bytes.
fn needles(secret: &[u8], hosts: &[Host; 3]) -> Vec<(String, Vec<u8>)> {
    let mut needles: Vec<(String, Vec<u8>)> = vec![
        ("the payload".into(), secret[..16].to_vec()),
        ("the mesh's name".into(), b"canary.mesh".to_vec()),
        ("the namespace".into(), NAMESPACE.into()),
        ("SPIFFE".into(), b"spiffe://".to_vec()),
        ("the server name of certificates".into(), b"cframe.invalid".to_vec()),
        ("a token".into(), b"cfj1.".to_vec()),
    ];
    needles.extend(EDGES.map(|name| (format!("the name {name}"), name.into())));
    for from in hosts {
        for to in hosts {
            let pair = [from.address(), to.address()].map(octets).concat();
            needles.push((format!("{} → {}", from.address(), to.address()), pair));
        }
    }
    needles.push(("an inner IPv6 address".into(), octets(hosts[2].v6().unwrap().into())));
    needles
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
