//! The desired state of a namespace: the controller's copy, and what each edge knows of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Members with their addresses, owners of prefixes, and edges whose certificate is revoked.
#[derive(Clone, Default)]
pub(crate) struct Desired {
    /// By edge; `None` if it is not a member.
    pub(crate) peers: Vec<Option<Vec<SocketAddr>>>,
    pub(crate) routes: BTreeMap<IpNet, usize>,
    pub(crate) denied: Edges,
}

/// One thing that may have changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    Peer(usize),
    Route(IpNet),
    Denied(usize),
}

/// A set of edges.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Edges(pub(crate) u64);

impl Edges {
    const MAX: usize = 64;

    pub(crate) fn contains(self, edge: usize) -> bool {
        self.0 & 1 << edge != 0
    }

    pub(crate) fn insert(&mut self, edge: usize) {
        self.0 |= 1 << edge;
    }

    pub(crate) fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MAX).filter(move |&edge| self.contains(edge))
    }
}

impl Desired {
    /// The owner by longest-prefix match, found by a linear scan.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<usize> {
        let matching = self.routes.iter().filter(|(prefix, _)| prefix.contains(&address));
        matching.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, owner)| *owner)
    }

    /// Everything in which the two may differ.
    pub(crate) fn items(&self, other: &Self) -> Vec<Item> {
        let denied = Edges(self.denied.0 | other.denied.0).iter().map(Item::Denied);
        let peers = (0..self.peers.len()).map(Item::Peer);
        let routes = self.routes.keys().chain(other.routes.keys());
        denied.chain(peers).chain(routes.copied().map(Item::Route)).collect()
    }

    pub(crate) fn differs(&self, other: &Self, item: Item) -> bool {
        match item {
            Item::Peer(peer) => self.peers[peer] != other.peers[peer],
            Item::Route(prefix) => self.routes.get(&prefix) != other.routes.get(&prefix),
            Item::Denied(edge) => self.denied.contains(edge) != other.denied.contains(edge),
        }
    }

    pub(crate) fn copy_item(&mut self, other: &Self, item: Item) {
        match item {
            Item::Peer(peer) => self.peers[peer] = other.peers[peer].clone(),
            Item::Route(prefix) => match other.routes.get(&prefix) {
                Some(owner) => drop(self.routes.insert(prefix, *owner)),
                None => drop(self.routes.remove(&prefix)),
            },
            Item::Denied(edge) => self.denied.0 |= other.denied.0 & 1 << edge,
        }
    }
}

/// The two prefixes of an edge's site, 10.<edge>.0.0/16 and fd00:<edge>::/32.
pub(crate) fn site(edge: usize) -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(10, edge as u8, 0, 0), 16);
    let v6 = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, edge as u16, 0, 0, 0, 0, 0, 0), 32);
    [v4.into(), v6.into()]
}

/// A prefix whose owner changes during a run: a separate network, or a part of a site.
pub(crate) fn floating(number: usize) -> IpNet {
    let number = number as u8;
    let address = match number % 2 {
        0 => Ipv4Addr::new(172, 16, number, 0),
        _ => Ipv4Addr::new(10, number / 2, 100 + number, 0),
    };
    Ipv4Net::new_assert(address, 24).into()
}

/// A part of a site's IPv4 prefix that its own flows don't use, and that another edge claims
/// wrongly.
pub(crate) fn claimed(edge: usize) -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(10, edge as u8, 250, 0), 24).into()
}

/// A host in a prefix.
pub(crate) fn host(prefix: IpNet, number: u8) -> IpAddr {
    match prefix {
        IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + u32::from(number)).into()),
        IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + u128::from(number)).into()),
    }
}
