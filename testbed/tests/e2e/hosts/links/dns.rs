//! A DNS server on a host, at the address that all hosts have in `/etc/resolv.conf`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

use cframe_testbed::Host;

use crate::traffic::{Background, socket};

/// Answers that a name does not exist (RFC 1035 §4.1.1), until it is dropped.
#[derive(Debug)]
pub(super) struct NoNames(#[expect(dead_code, reason = "runs until it is dropped")] Background);

impl NoNames {
    pub(super) fn start(host: &Host) -> Self {
        let server = own_address(host);
        let socket = socket(host, SocketAddr::new(server, 53));
        Self(Background::run(move |stop, count| {
            let mut message = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut message) else { continue };
                // A response, recursion available, and NXDOMAIN.
                message[2] |= 0x80;
                message[3] = 0x83;
                drop(socket.send_to(&message[..length], from));
                count.fetch_add(1, Ordering::Relaxed);
            }
        }))
    }
}

/// A DNS server that answers nothing.
pub(super) fn silent(host: &Host) -> std::net::UdpSocket {
    socket(host, SocketAddr::new(own_address(host), 53))
}

/// Gives the host the address of the first DNS server.
fn own_address(host: &Host) -> IpAddr {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let mut words = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let server: IpAddr = words.next().expect("a name server").trim().parse().unwrap();
    if !server.is_loopback() {
        host.ip(&format!("addr replace {server} dev lo")).unwrap();
    }
    server
}
