//! Which inner packets may pass: the decision alone, without its effects.
//!
//! On the way in both addresses must be right: the longest-prefix match of the source is the
//! sending peer, that of the destination this edge. The destination's check is what keeps a peer
//! from using this edge as a way to a third site, to its host's other networks, or to the metadata
//! address of its cloud.

use std::net::IpAddr;

use crate::{counters::Reason, table::PrefixTable};

/// Who holds a prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Owner {
    /// This edge.
    Own,
    /// The peer of this index.
    Peer(u32),
}

/// The last packet that passed in each direction: most are followed by another of their flow. To be
/// forgotten with every change of the table.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    out: Option<(IpAddr, IpAddr, u32)>,
    into: Option<(IpAddr, IpAddr, u32)>,
}

impl Passed {
    /// The peer that a packet from the TUN goes to.
    #[inline]
    pub(crate) fn outbound(
        &mut self,
        table: &PrefixTable<Owner>,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<u32, Reason> {
        if let Some((from, to, peer)) = self.out
            && (from, to) == (source, destination)
        {
            return Ok(peer);
        }
        let peer = outbound(table, source, destination)?;
        self.out = Some((source, destination, peer));
        Ok(peer)
    }

    /// Whether a packet from `peer` may reach the TUN.
    #[inline]
    pub(crate) fn inbound(
        &mut self,
        table: &PrefixTable<Owner>,
        peer: u32,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<(), Reason> {
        let this = Some((source, destination, peer));
        if self.into != this {
            inbound(table, peer, source, destination)?;
            self.into = this;
        }
        Ok(())
    }
}

fn outbound(
    table: &PrefixTable<Owner>,
    source: IpAddr,
    destination: IpAddr,
) -> Result<u32, Reason> {
    if never_routed(destination) {
        return Err(Reason::TunForbiddenDestination);
    }
    match table.lookup(destination) {
        None => Err(Reason::TunNoRoute),
        Some(Owner::Own) => Err(Reason::TunForbiddenDestination),
        Some(Owner::Peer(peer)) => match table.lookup(source) {
            Some(Owner::Own) => Ok(peer),
            Some(Owner::Peer(_)) | None => Err(Reason::TunForeignSource),
        },
    }
}

fn inbound(
    table: &PrefixTable<Owner>,
    peer: u32,
    source: IpAddr,
    destination: IpAddr,
) -> Result<(), Reason> {
    if never_routed(source) || never_routed(destination) {
        return Err(Reason::PeerForbiddenAddress);
    }
    if table.lookup(source) != Some(Owner::Peer(peer)) {
        return Err(Reason::PeerForgedSource);
    }
    if table.lookup(destination) != Some(Owner::Own) {
        return Err(Reason::PeerForeignDestination);
    }
    Ok(())
}

/// Addresses no prefix can make routable: unspecified, loopback, link-local (the clouds' metadata
/// address is one), multicast, broadcast, and IPv6 in the form of a mapped IPv4 address.
#[inline]
fn never_routed(address: IpAddr) -> bool {
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

    fn table() -> PrefixTable<Owner> {
        let mut table = PrefixTable::new();
        for (prefix, owner) in [
            ("172.18.0.0/16", Owner::Own),
            ("fd00:18::/64", Owner::Own),
            ("172.30.0.0/16", Owner::Peer(1)),
            ("172.30.9.0/24", Owner::Peer(2)),
            ("0.0.0.0/0", Owner::Peer(3)),
        ] {
            table.insert(prefix.parse().unwrap(), owner);
        }
        table
    }

    fn check_in(peer: u32, source: &str, destination: &str) -> Result<(), Reason> {
        inbound(&table(), peer, source.parse().unwrap(), destination.parse().unwrap())
    }

    fn check_out(source: &str, destination: &str) -> Result<u32, Reason> {
        outbound(&table(), source.parse().unwrap(), destination.parse().unwrap())
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
    fn what_leaves_must_be_ours_and_go_to_a_peer() {
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
