//! The key that identifies a flow.

use std::net::IpAddr;

/// Addresses, protocol and ports. Packets without ports (fragments, ICMP, ESP) are one flow per
/// pair of addresses and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlowKey {
    source: u128,
    destination: u128,
    /// Source port, destination port, protocol, and 1 for IPv6, from the highest bits down.
    rest: u64,
}

impl FlowKey {
    /// The key of one direction of a flow.
    #[inline]
    #[must_use]
    pub fn new(
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> Self {
        let (from, to) = ports.unwrap_or_default();
        let rest = u64::from(from) << 48
            | u64::from(to) << 32
            | u64::from(protocol) << 8
            | u64::from(source.is_ipv6());
        Self { source: address_bits(source), destination: address_bits(destination), rest }
    }

    /// Whether both keys have the same pair of addresses, in the same direction.
    #[inline]
    #[must_use]
    pub fn same_addresses(&self, other: &Self) -> bool {
        self.source == other.source
            && self.destination == other.destination
            && (self.rest ^ other.rest) & 1 == 0
    }

    /// A hash for choosing a shard, queue or slot. A sender that doesn't know `seed` can't choose
    /// flows that collide.
    #[inline]
    #[must_use]
    pub fn hash64(&self, seed: u64) -> u64 {
        // Folded multiplication as in wyhash, with its constants; any odd random ones would do.
        let hash = fold(self.source as u64 ^ seed, self.destination as u64 ^ 0xa076_1d64_78bd_642f);
        let hash = fold(hash ^ self.rest, (self.source >> 64) as u64 ^ 0xe703_7ed1_a0b4_28db);
        fold(hash ^ seed, (self.destination >> 64) as u64 ^ 0x8ebc_6af0_9c88_c6e3)
    }
}

#[inline]
fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
