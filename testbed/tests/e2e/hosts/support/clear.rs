//! That no inner packet leaves in the clear.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use cframe_testbed::{Capture, Host, Packet, Site, wait_until};
use ipnet::IpNet;

use crate::lab::{TIMEOUT, figure};
use crate::traffic::canary;

/// Captures of the uplinks of sites. A packet there from or to an address of a site has left in the clear: all that
/// an edge sends has public addresses.
#[derive(Debug)]
pub(crate) struct Clear {
    captures: Vec<(Host, Capture)>,
    private: Vec<IpNet>,
}

impl Clear {
    /// Watches the uplinks of `sites`, whose networks, and `more`, must not be seen there.
    pub(crate) fn watch(sites: &[&Site], more: &[&str]) -> Self {
        let captures =
            sites.iter().map(|site| (site.edge().clone(), site.uplink().capture().unwrap()));
        let inside = sites.iter().flat_map(|site| site.edge().addresses());
        let mut private: Vec<IpNet> = inside.map(|net| net.trunc()).collect();
        private.extend(more.iter().map(|net| net.parse::<IpNet>().unwrap()));
        Self { captures: captures.collect(), private }
    }

    /// Fails if anything has left in the clear so far. `what` is what was done.
    pub(crate) fn check(&self, what: &str) {
        let mut seen = 0;
        for (host, capture) in &self.captures {
            // Packets are in the capture in their order: when the marker is there, so are all before it. A host
            // whose route to the internet is broken sends none.
            let marker = canary();
            let sent = host.enter(|| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.send_to(&marker, "198.51.100.10:9")
            });
            if sent.unwrap().is_ok() {
                let captured = wait_until(TIMEOUT, || capture.contains(&marker).unwrap());
                assert!(
                    captured.is_ok(),
                    "{what}: a marker of {} is not in its capture",
                    host.name()
                );
            }
            let pcap = capture.pcap().unwrap();
            let leaked: Vec<&Packet> =
                pcap.packets().iter().filter(|packet| self.is_inner(packet)).collect();
            let first = leaked.first().and_then(|packet| addresses(packet));
            assert!(
                leaked.is_empty(),
                "{what}: {} of {} packets left {} in the clear, the first from and to {first:?}",
                leaked.len(),
                pcap.packets().len(),
                host.name()
            );
            seen += pcap.packets().len();
        }
        figure(&format!("in the clear, {what}"), format_args!("0 of {seen} packets (bound 0)"));
    }

    fn is_inner(&self, packet: &Packet) -> bool {
        let Some((from, to)) = addresses(packet) else { return false };
        let private = |address| self.private.iter().any(|net| net.contains(&address));
        private(from) || private(to)
    }
}

/// The source and the destination of an IP packet.
fn addresses(packet: &Packet) -> Option<(IpAddr, IpAddr)> {
    let ip = packet.ip()?;
    match ip.first()? >> 4 {
        4 => Some((v4(ip.get(12..16)?), v4(ip.get(16..20)?))),
        6 => Some((v6(ip.get(8..24)?), v6(ip.get(24..40)?))),
        _ => None,
    }
}

fn v4(bytes: &[u8]) -> IpAddr {
    let octets: [u8; 4] = bytes.try_into().unwrap();
    Ipv4Addr::from(octets).into()
}

fn v6(bytes: &[u8]) -> IpAddr {
    let octets: [u8; 16] = bytes.try_into().unwrap();
    Ipv6Addr::from(octets).into()
}
