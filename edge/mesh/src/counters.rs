//! Packets carried, and packets dropped by reason.

use crate::queue::Dropped;

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(usize)]
pub enum Reason {
    /// Read from the TUN: not a whole IPv4 or IPv6 packet.
    TunUnparsable,
    /// Read from the TUN: its source is not in a prefix of this edge.
    TunForeignSource,
    /// Read from the TUN: its destination is in no prefix of the namespace.
    TunNoRoute,
    /// Read from the TUN: its destination is in a prefix of this edge, or never routed (loopback,
    /// link-local, multicast).
    TunForbiddenDestination,
    /// Read from the TUN: its source or destination is an address of a cloud's own services.
    TunServiceAddress,
    /// The destination's edge has no link that is up.
    NoLink,
    /// The link's queue was full.
    QueueFull,
    /// The packet waited too long in the link's queue, or its flow did (RFC 8289).
    QueueOld,
    /// Received from a peer: not a whole IPv4 or IPv6 packet.
    PeerUnparsable,
    /// Received from a peer: its source is not in a prefix of that peer.
    PeerForgedSource,
    /// Received from a peer: its destination is not in a prefix of this edge.
    PeerForeignDestination,
    /// Received from a peer: an address that is never routed (loopback, link-local, multicast).
    PeerForbiddenAddress,
    /// Received from a peer: its source or destination is an address of a cloud's own services.
    PeerServiceAddress,
    /// Received on a link whose peer is not known yet, or no longer.
    PeerUnknown,
    /// A frame type of a later version.
    PeerUnknownFrame,
    /// Congestion was marked on the outer packet, and the inner one cannot carry the mark
    /// (RFC 6040 §4.2).
    CongestionNotEct,
    /// A fragment that was refused, or a packet that could not be fragmented.
    Fragment,
    /// A handshake ignored because there were too many.
    HandshakeRate,
    /// A handshake refused, by this edge or by the peer.
    HandshakeRefused,
}

const NAMES: [&str; 19] = [
    "tun_unparsable",
    "tun_foreign_source",
    "tun_no_route",
    "tun_forbidden_destination",
    "tun_service_address",
    "no_link",
    "queue_full",
    "queue_old",
    "peer_unparsable",
    "peer_forged_source",
    "peer_foreign_destination",
    "peer_forbidden_address",
    "peer_service_address",
    "peer_unknown",
    "peer_unknown_frame",
    "congestion_not_ect",
    "fragment",
    "handshake_rate",
    "handshake_refused",
];

/// Inner packets since the start, all links together.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    dropped: [u64; NAMES.len()],
    /// Packets handed to links.
    pub sent: u64,
    pub sent_bytes: u64,
    /// Packets delivered to the TUN.
    pub received: u64,
    pub received_bytes: u64,
    /// Packets sent in fragments.
    pub fragmented: u64,
}

impl Counters {
    /// Each reason with its count, in a fixed order.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NAMES.iter().copied().zip(self.dropped.iter().copied())
    }

    /// Packets carried in both directions.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.sent + self.received
    }

    #[must_use]
    pub fn dropped_for(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    #[inline]
    pub(crate) fn drop(&mut self, reason: Reason) {
        self.drop_many(reason, 1);
    }

    pub(crate) fn drop_queued(&mut self, dropped: Dropped) {
        self.drop_many(Reason::QueueFull, dropped.full);
        self.drop_many(Reason::QueueOld, dropped.old);
    }

    pub(crate) fn drop_many(&mut self, reason: Reason, count: u64) {
        self.dropped[reason as usize] += count;
    }
}

impl Reason {
    /// The name in logs, `status` and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_reasons_have_the_same_order() {
        assert_eq!(Reason::HandshakeRefused as usize, NAMES.len() - 1);
        assert_eq!(Reason::QueueOld.name(), "queue_old");
        assert_eq!(Reason::PeerForgedSource.name(), "peer_forged_source");
    }
}
