//! The verdict about every inner packet: which peer it goes to, or whether it may reach the TUN.
//!
//! For received packets both addresses are checked: the longest-prefix match of the source must be
//! the sending peer, that of the destination this edge. Without the check of the destination a peer
//! could use this edge as a way to a third site, to other networks of its host, or to the metadata
//! address of its cloud.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{counters::Reason, table::PrefixTable};

/// The owner of a prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Owner {
    /// This edge.
    Own,
    /// The peer with this index.
    Peer(u32),
    /// Nobody: no packet is carried from or to it.
    Refused,
}

/// The owners of all prefixes, and the last packet that passed in each direction: most packets are
/// followed by another of their flow.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    table: PrefixTable<Owner>,
    /// In the table as [`Owner::Refused`], for good.
    refused: Vec<IpNet>,
    last_outbound: Option<Passed>,
    last_inbound: Option<Passed>,
}

/// Source, destination and peer of a packet that passed.
type Passed = (IpAddr, IpAddr, u32);

impl Verdicts {
    /// Without prefixes, apart from those that are refused.
    pub(crate) fn new(refused: &[IpNet]) -> Self {
        let mut verdicts = Self::default();
        for prefix in refused {
            verdicts.insert(*prefix, Owner::Refused);
        }
        verdicts.refused = refused.to_vec();
        verdicts
    }

    /// Has no effect on a prefix inside a refused one: a longer match would take precedence.
    pub(crate) fn insert(&mut self, prefix: IpNet, owner: Owner) {
        if self.is_refused(&prefix) {
            return;
        }
        self.forget_passed();
        self.table.insert(prefix, owner);
    }

    pub(crate) fn remove(&mut self, prefix: &IpNet) {
        if self.is_refused(prefix) {
            return;
        }
        self.forget_passed();
        self.table.remove(prefix);
    }

    fn is_refused(&self, prefix: &IpNet) -> bool {
        self.refused.iter().any(|refused| refused.contains(prefix))
    }

    fn forget_passed(&mut self) {
        (self.last_outbound, self.last_inbound) = (None, None);
    }

    /// The peer to which a packet from the TUN must be sent.
    #[inline]
    pub(crate) fn outbound(&mut self, source: IpAddr, destination: IpAddr) -> Result<u32, Reason> {
        if let Some((from, to, peer)) = self.last_outbound
            && (from, to) == (source, destination)
        {
            return Ok(peer);
        }
        let peer = self.decide_outbound(source, destination)?;
        self.last_outbound = Some((source, destination, peer));
        Ok(peer)
    }

    /// Whether a packet from `peer` may be written to the TUN.
    #[inline]
    pub(crate) fn inbound(
        &mut self,
        peer: u32,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<(), Reason> {
        let packet = Some((source, destination, peer));
        if self.last_inbound != packet {
            self.decide_inbound(peer, source, destination)?;
            self.last_inbound = packet;
        }
        Ok(())
    }

    fn decide_outbound(&self, source: IpAddr, destination: IpAddr) -> Result<u32, Reason> {
        if is_never_routed(destination) {
            return Err(Reason::TunForbiddenDestination);
        }
        match self.table.lookup(destination) {
            None => Err(Reason::TunNoRoute),
            Some(Owner::Own) => Err(Reason::TunForbiddenDestination),
            Some(Owner::Refused) => Err(Reason::TunServiceAddress),
            Some(Owner::Peer(peer)) => match self.table.lookup(source) {
                Some(Owner::Own) => Ok(peer),
                Some(Owner::Refused) => Err(Reason::TunServiceAddress),
                Some(Owner::Peer(_)) | None => Err(Reason::TunForeignSource),
            },
        }
    }

    fn decide_inbound(&self, peer: u32, source: IpAddr, destination: IpAddr) -> Result<(), Reason> {
        if is_never_routed(source) || is_never_routed(destination) {
            return Err(Reason::PeerForbiddenAddress);
        }
        let (from, to) = (self.table.lookup(source), self.table.lookup(destination));
        if from == Some(Owner::Refused) || to == Some(Owner::Refused) {
            return Err(Reason::PeerServiceAddress);
        }
        if from != Some(Owner::Peer(peer)) {
            return Err(Reason::PeerForgedSource);
        }
        if to != Some(Owner::Own) {
            return Err(Reason::PeerForeignDestination);
        }
        Ok(())
    }
}

/// Addresses that no prefix makes routable: unspecified, loopback, link-local (which includes the
/// clouds' metadata address), multicast, broadcast, and IPv4-mapped IPv6.
#[inline]
fn is_never_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.octets()[0] == 0
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts() -> Verdicts {
        let mut verdicts = Verdicts::default();
        for (prefix, owner) in [
            ("172.18.0.0/16", Owner::Own),
            ("fd00:18::/64", Owner::Own),
            ("172.30.0.0/16", Owner::Peer(1)),
            ("172.30.9.0/24", Owner::Peer(2)),
            ("0.0.0.0/0", Owner::Peer(3)),
        ] {
            verdicts.insert(prefix.parse().unwrap(), owner);
        }
        verdicts
    }

    fn check_in(peer: u32, source: &str, destination: &str) -> Result<(), Reason> {
        verdicts().inbound(peer, source.parse().unwrap(), destination.parse().unwrap())
    }

    fn check_out(source: &str, destination: &str) -> Result<u32, Reason> {
        verdicts().outbound(source.parse().unwrap(), destination.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_of_the_source_must_be_the_sender() {
        assert_eq!(check_in(1, "172.30.1.1", "172.18.0.5"), Ok(()));
        assert_eq!(check_in(2, "172.30.9.1", "172.18.0.5"), Ok(()));
        assert_eq!(check_in(1, "172.30.9.1", "172.18.0.5"), Err(Reason::PeerForgedSource));
        assert_eq!(check_in(1, "172.18.0.9", "172.18.0.5"), Err(Reason::PeerForgedSource));
    }

    #[test]
    fn a_peer_reaches_this_edges_prefixes_and_nothing_else() {
        for foreign in ["172.30.9.9", "8.8.8.8", "172.17.0.2"] {
            assert_eq!(check_in(1, "172.30.1.1", foreign), Err(Reason::PeerForeignDestination));
        }
        for never in ["169.254.169.254", "127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0"] {
            assert_eq!(check_in(1, "172.30.1.1", never), Err(Reason::PeerForbiddenAddress));
            assert_eq!(check_in(3, never, "172.18.0.5"), Err(Reason::PeerForbiddenAddress));
        }
        for never in ["::1", "fe80::1", "ff02::1", "::ffff:172.18.0.5", "::"] {
            assert_eq!(check_in(1, "fd00::1", never), Err(Reason::PeerForbiddenAddress));
        }
    }

    #[test]
    fn refused_addresses_are_carried_in_no_direction_whatever_prefixes_say() {
        let service: IpNet = "100.100.100.200/32".parse().unwrap();
        let mut verdicts = Verdicts::new(&[service, "fd00:ec2::/32".parse().unwrap()]);
        for (prefix, owner) in [
            ("172.18.0.0/16", Owner::Own),
            ("100.64.0.0/10", Owner::Peer(1)),
            ("100.100.100.200/32", Owner::Peer(1)),
            ("fd00:ec2::254/128", Owner::Own),
            ("fd00::/16", Owner::Peer(1)),
        ] {
            verdicts.insert(prefix.parse().unwrap(), owner);
        }
        verdicts.remove(&service);
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let own = address("172.18.0.5");
        for service in ["100.100.100.200", "fd00:ec2::254"].map(address) {
            assert_eq!(verdicts.outbound(own, service), Err(Reason::TunServiceAddress));
            assert_eq!(verdicts.inbound(1, service, own), Err(Reason::PeerServiceAddress));
            let other = address("100.100.100.201");
            assert_eq!(verdicts.inbound(1, other, service), Err(Reason::PeerServiceAddress));
            assert_eq!(verdicts.outbound(service, other), Err(Reason::TunServiceAddress));
        }
        assert_eq!(verdicts.outbound(own, address("100.100.100.201")), Ok(1));
    }

    #[test]
    fn an_outbound_packet_must_have_our_source_and_the_destination_of_a_peer() {
        assert_eq!(check_out("172.18.0.5", "172.30.9.1"), Ok(2));
        assert_eq!(check_out("172.18.0.5", "172.30.1.1"), Ok(1));
        assert_eq!(check_out("10.0.0.1", "172.30.1.1"), Err(Reason::TunForeignSource));
        assert_eq!(check_out("172.18.0.5", "172.18.0.6"), Err(Reason::TunForbiddenDestination));
        assert_eq!(
            check_out("172.18.0.5", "169.254.169.254"),
            Err(Reason::TunForbiddenDestination)
        );
        assert_eq!(check_out("fd00:18::1", "fd00:77::1"), Err(Reason::TunNoRoute));
    }
}
