//! The prefixes of a namespace, sorted so that overlaps are found without comparing with all of them.

use std::{collections::BTreeMap, net::IpAddr};

use cframe_pki::identity::Label;
use ipnet::IpNet;

/// Where a prefix comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub edge: Label,
    /// `None` for a prefix of the edge itself.
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

/// Canonical prefixes (host bits zero), each with one source.
#[derive(Debug, Clone, Default)]
pub struct Prefixes(BTreeMap<IpNet, Source>);

impl Prefixes {
    pub fn insert(&mut self, net: IpNet, source: Source) {
        self.0.insert(net, source);
    }

    /// Removes a prefix if this is its source; false if it is not.
    pub fn remove(&mut self, net: IpNet, source: &Source) -> bool {
        if self.0.get(&net) != Some(source) {
            return false;
        }
        self.0.remove(&net);
        true
    }

    /// All prefixes that overlap with `net`, first those that contain it.
    pub fn overlapping(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &Source)> {
        let containing = (0..net.prefix_len())
            .filter_map(move |len| IpNet::new(net.network(), len).ok())
            .filter_map(|wider| self.0.get_key_value(&wider.trunc()));
        // Sorted by address, then length: everything in `net` is between `net` itself and its last address.
        let inside = self.0.range(net..=IpNet::from(net.broadcast()));
        containing.chain(inside).map(|(net, source)| (*net, source))
    }

    /// Longest-prefix match.
    pub fn matching(&self, address: IpAddr) -> Option<(IpNet, &Source)> {
        let host = IpNet::from(address);
        (0..=host.prefix_len())
            .rev()
            .filter_map(|len| IpNet::new(address, len).ok())
            .find_map(|net| self.0.get_key_value(&net.trunc()))
            .map(|(net, source)| (*net, source))
    }

    pub fn owners(&self) -> BTreeMap<IpNet, Label> {
        self.0.iter().map(|(net, source)| (*net, source.edge.clone())).collect()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
