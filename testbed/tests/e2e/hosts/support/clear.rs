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
    captures: Vec<Watched>,
    private: Vec<IpNet>,
}

#[derive(Debug)]
struct Watched {
    host: Host,
    capture: Capture,
    /// Packets of a time in which the networks were not all the mesh's.
    skipped: usize,
}

impl Clear {
    /// Watches the uplinks of `sites`, whose networks, and `more`, must not be seen there.
    pub(crate) fn watch(sites: &[&Site], more: &[&str]) -> Self {
        let captures = sites.iter().map(|site| Watched {
            host: site.edge().clone(),
            capture: site.uplink().capture().unwrap(),
            skipped: 0,
        });
        let inside = sites.iter().flat_map(|site| site.edge().addresses());
        let mut private: Vec<IpNet> = inside.map(|net| net.trunc()).collect();
        private.extend(more.iter().map(|net| net.parse::<IpNet>().unwrap()));
        Self { captures: captures.collect(), private }
    }

    /// Fails if anything has left in the clear so far. `what` is what was done.
    pub(crate) fn check(&self, what: &str) {
        let mut seen = 0;
        for watched in &self.captures {
            watched.wait_for_the_last(what);
            let Watched { host, capture, skipped } = watched;
            let pcap = capture.pcap().unwrap();
            let leaked: Vec<&Packet> = pcap
                .packets()
                .iter()
                .skip(*skipped)
                .filter(|packet| self.is_inner(packet))
                .collect();
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

    /// Checks nothing of what has left so far: a network was not in the mesh for a while.
    pub(crate) fn skip(&mut self, what: &str) {
        for watched in &mut self.captures {
            watched.wait_for_the_last(what);
            watched.skipped = watched.capture.pcap().unwrap().packets().len();
        }
    }

    fn is_inner(&self, packet: &Packet) -> bool {
        let Some((from, to)) = addresses(packet) else { return false };
        let private = |address| self.private.iter().any(|net| net.contains(&address));
        private(from) || private(to)
    }
}

impl Watched {
    /// Waits until what the host has sent so far is in its capture. A host whose route to the internet is broken
    /// sends no marker.
    fn wait_for_the_last(&self, what: &str) {
        let marker = canary();
        let sent = self.host.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(&marker, "198.51.100.10:9")
        });
        if sent.unwrap().is_ok() {
            let captured = wait_until(TIMEOUT, || self.capture.contains(&marker).unwrap());
            let name = self.host.name();
            assert!(captured.is_ok(), "{what}: a marker of {name} is not in its capture");
        }
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
