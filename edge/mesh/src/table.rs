//! Longest-prefix match over IPv4 and IPv6 in one table.

use std::{fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

mod bitmap;
mod node;
#[cfg(test)]
mod tests;

use node::Node;

/// A map from prefixes to small values, looked up by address.
///
/// Host bits of a prefix are ignored: `10.1.2.3/8` and `10.0.0.0/8` are one key. IPv4-mapped IPv6
/// addresses are IPv6. An edit changes only the nodes on one path, so it costs the same in a table
/// of ten prefixes or of a hundred thousand.
#[derive(Clone)]
pub struct PrefixTable<T> {
    v4: Node<u32, T>,
    v6: Node<u128, T>,
    len: usize,
}

impl<T: Copy> PrefixTable<T> {
    #[must_use]
    pub fn new() -> Self {
        Self { v4: Node::root(), v6: Node::root(), len: 0 }
    }

    /// The value of the longest prefix that contains `address`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(address.to_bits()),
        }
    }

    /// The value stored for exactly this prefix.
    #[must_use]
    pub fn get(&self, prefix: &IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(prefix) => self.v4.exact(prefix.network().to_bits(), prefix.prefix_len()),
            IpNet::V6(prefix) => self.v6.exact(prefix.network().to_bits(), prefix.prefix_len()),
        }
    }

    /// Returns the value that it replaces.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        let old = match prefix {
            IpNet::V4(prefix) => {
                self.v4.insert(prefix.network().to_bits(), prefix.prefix_len(), value)
            }
            IpNet::V6(prefix) => {
                self.v6.insert(prefix.network().to_bits(), prefix.prefix_len(), value)
            }
        };
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes exactly this prefix and returns its value. Longer and shorter prefixes stay.
    pub fn remove(&mut self, prefix: &IpNet) -> Option<T> {
        let old = match prefix {
            IpNet::V4(prefix) => self.v4.remove(prefix.network().to_bits(), prefix.prefix_len()),
            IpNet::V6(prefix) => self.v6.remove(prefix.network().to_bits(), prefix.prefix_len()),
        };
        self.len -= usize::from(old.is_some());
        old
    }

    /// All prefixes with zero host bits: IPv4, then IPv6, each in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, T)> + '_ {
        let v4 = self
            .v4
            .iter()
            .map(|(bits, len, value)| (Ipv4Net::new_assert(bits.into(), len).into(), value));
        let v6 = self
            .v6
            .iter()
            .map(|(bits, len, value)| (Ipv6Net::new_assert(bits.into(), len).into(), value));
        v4.chain(v6)
    }

    /// Number of prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Copy> Default for PrefixTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy + fmt::Debug> fmt::Debug for PrefixTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
