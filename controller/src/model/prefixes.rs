//! The prefixes of a namespace, ordered so that overlaps are found without looking at all of them.

use std::{collections::BTreeMap, net::IpAddr};

use cframe_pki::identity::Label;
use ipnet::IpNet;

/// What gave a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The edge that it is behind.
    pub edge: Label,
    /// The route, or none for a prefix of the edge itself.
    pub route: Option<Label>,
}

impl Source {
    /// For messages: `edge aws-hk` or `route pods of edge aws-hk`.
    pub fn describe(&self) -> String {
        match &self.route {
            Some(route) => format!("route {route} of edge {}", self.edge),
            None => format!("edge {}", self.edge),
        }
    }
}

/// Canonical prefixes (host bits zero), each with its one source.
#[derive(Debug, Clone, Default)]
pub struct Prefixes(BTreeMap<IpNet, Source>);

impl Prefixes {
    /// Sets a prefix's source.
    pub fn insert(&mut self, net: IpNet, source: Source) {
        self.0.insert(net, source);
    }

    /// Removes a prefix if this is its source; whether it was.
    pub fn remove(&mut self, net: IpNet, source: &Source) -> bool {
        if self.0.get(&net) != Some(source) {
            return false;
        }
        self.0.remove(&net);
        true
    }

    /// All prefixes that share an address with `net`, the containing ones first.
    pub fn overlapping(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &Source)> {
        let containing = (0..net.prefix_len())
            .filter_map(move |len| IpNet::new(net.network(), len).ok())
            .filter_map(|wider| self.0.get_key_value(&wider.trunc()));
        // Ordered by address, then length: from `net` itself to its last address lies all that is in it.
        let inside = self.0.range(net..=IpNet::from(net.broadcast()));
        containing.chain(inside).map(|(net, source)| (*net, source))
    }

    /// The longest prefix that has this address.
    pub fn matching(&self, address: IpAddr) -> Option<(IpNet, &Source)> {
        let host = IpNet::from(address);
        (0..=host.prefix_len())
            .rev()
            .filter_map(|len| IpNet::new(address, len).ok())
            .find_map(|net| self.0.get_key_value(&net.trunc()))
            .map(|(net, source)| (*net, source))
    }

    /// Each prefix with its edge.
    pub fn owners(&self) -> BTreeMap<IpNet, Label> {
        self.0.iter().map(|(net, source)| (*net, source.edge.clone())).collect()
    }

    /// The number of prefixes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
