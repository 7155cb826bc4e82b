//! What somebody on the path sees.

use std::net::{IpAddr, SocketAddr};

use cframe_testbed::{Pcap, http, wait_until};

use crate::initial::{client_hellos, extensions};
use crate::traffic::{canary, echo};
use crate::world::{HK, IDC, MS, Mesh, PATIENCE, SZ, figure, ping, shared};

/// The `server_name` extension (RFC 6066 §3).
const SERVER_NAME: u16 = 0;

#[test]
fn the_underlay_shows_no_inner_payload_no_inner_address_and_no_name() {
    let mesh = Mesh::named("canary.mesh.example", "secrecy", None, shared());
    let tenant = "tenant-of-secrets";
    mesh.deployment.ctl_ok(&["namespace", "add", tenant]).unwrap();
    let sites = mesh.three.sites();
    let mut captures: Vec<_> = sites.iter().map(|site| site.uplink().capture().unwrap()).collect();
    captures.push(mesh.three.controller.uplink().capture().unwrap());
    let endpoints = [SZ, HK, IDC];
    let names = ["gateway-alpha", "gateway-bravo", "gateway-gamma"];
    let mut edges: Vec<_> = sites
        .iter()
        .zip(endpoints.into_iter().zip(names))
        .map(|(site, (endpoint, name))| {
            let edge = mesh.deployment.edge(site).namespace(tenant).name(name);
            edge.endpoints(&[endpoint]).enrol().unwrap()
        })
        .collect();
    for edge in &mut edges {
        edge.wait_links(2).unwrap();
        edge.wait_synced().unwrap();
    }
    let secret = canary();
    let hosts = sites.map(|site| site.workload().clone());
    // UDP there and back, ICMP, HTTP, over all three links; then desired state and a revocation.
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let at = SocketAddr::new(hosts[to].address(), 7007);
        let echo = echo(&hosts[to], at);
        let socket = hosts[from].enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        let large = secret.repeat(100);
        wait_until(PATIENCE, || {
            socket.send_to(&secret, at).unwrap();
            socket.send_to(&large, at).unwrap();
            echo.counted() > 20
        })
        .unwrap();
        drop(ping(&edges[from], &edges[to], 5 * MS));
        let server = http::Server::start(&hosts[to], 8080, secret.repeat(1000)).unwrap();
        assert_eq!(http::fetch(&hosts[from], server.address()).unwrap(), secret.repeat(1000));
    }
    let add = [
        "route",
        "add",
        "pods-of-bravo",
        "-n",
        tenant,
        "--cidr",
        "10.244.0.0/16",
        "--edge",
        names[1],
        "--wait",
    ];
    mesh.deployment.ctl_ok(&add).unwrap();
    mesh.deployment.ctl_ok(&["cert", "revoke", "--edge", names[2], "-n", tenant, "--yes"]).unwrap();
    edges[0].wait_links(1).unwrap();

    let pcaps: Vec<Pcap> = captures.into_iter().map(|capture| capture.stop().unwrap()).collect();
    let packets: usize = pcaps.iter().map(|pcap| pcap.packets().len()).sum();
    let bytes: usize =
        pcaps.iter().flat_map(|pcap| pcap.packets()).map(|packet| packet.bytes.len()).sum();
    let mut needles: Vec<(String, Vec<u8>)> = vec![
        ("the payload".into(), secret[..16].to_vec()),
        ("the mesh's name".into(), b"canary.mesh".to_vec()),
        ("the namespace".into(), tenant.into()),
        ("SPIFFE".into(), b"spiffe://".to_vec()),
        ("a name of ours".into(), b"cframe.invalid".to_vec()),
        ("a token".into(), b"cfj1.".to_vec()),
    ];
    needles.extend(names.map(|name| (format!("the name {name}"), name.into())));
    for from in &hosts {
        for to in &hosts {
            let pair = [from.address(), to.address()].map(octets).concat();
            needles.push((format!("{} → {}", from.address(), to.address()), pair));
        }
    }
    needles.push(("an inner IPv6 address".into(), octets(hosts[2].v6().unwrap().into())));
    for (what, needle) in &needles {
        assert!(pcaps.iter().all(|pcap| !pcap.contains(needle)), "{what} is on the wire");
    }

    let hellos: Vec<Vec<u8>> = pcaps.iter().flat_map(client_hellos).collect();
    assert!(hellos.len() >= 9, "only {} handshakes were seen", hellos.len());
    for hello in &hellos {
        let extensions = extensions(hello).expect("a whole client hello");
        assert!(!extensions.contains(&SERVER_NAME), "a handshake names its server");
        for (what, needle) in &needles {
            let shown = hello.windows(needle.len()).any(|window| window == &needle[..]);
            assert!(!shown, "{what} is in a client hello");
        }
    }
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

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
