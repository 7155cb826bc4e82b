//! What a namespace's edges are to know: the controller's copy, and what has reached each edge of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Members with the addresses to dial them at, owners of prefixes, and whose certificate is denied.
#[derive(Clone, Default)]
pub(crate) struct Desired {
    /// By edge; none where it is not a member.
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
    pub(crate) const MOST: usize = 64;

    pub(crate) fn has(self, edge: usize) -> bool {
        self.0 & 1 << edge != 0
    }

    pub(crate) fn add(&mut self, edge: usize) {
        self.0 |= 1 << edge;
    }

    pub(crate) fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MOST).filter(move |&edge| self.has(edge))
    }
}

impl Desired {
    /// The longest-prefix match, found by looking at all of them.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<usize> {
        let matching = self.routes.iter().filter(|(prefix, _)| prefix.contains(&address));
        matching.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, owner)| *owner)
    }

    /// Everything that there may be a difference in.
    pub(crate) fn items(&self, other: &Self) -> Vec<Item> {
        let denied = Edges(self.denied.0 | other.denied.0).iter().map(Item::Denied);
        let peers = (0..self.peers.len()).map(Item::Peer);
        let routes = self.routes.keys().chain(other.routes.keys());
        denied.chain(peers).chain(routes.copied().map(Item::Route)).collect()
    }

    /// Whether one thing is another in `truth`.
    pub(crate) fn lacks(&self, truth: &Self, item: Item) -> bool {
        match item {
            Item::Peer(peer) => self.peers[peer] != truth.peers[peer],
            Item::Route(prefix) => self.routes.get(&prefix) != truth.routes.get(&prefix),
            Item::Denied(edge) => self.denied.has(edge) != truth.denied.has(edge),
        }
    }

    /// Takes over one thing from `truth`.
    pub(crate) fn take(&mut self, truth: &Self, item: Item) {
        match item {
            Item::Peer(peer) => self.peers[peer] = truth.peers[peer].clone(),
            Item::Route(prefix) => match truth.routes.get(&prefix) {
                Some(owner) => drop(self.routes.insert(prefix, *owner)),
                None => drop(self.routes.remove(&prefix)),
            },
            Item::Denied(edge) => self.denied.0 |= truth.denied.0 & 1 << edge,
        }
    }
}

/// The two prefixes of an edge's site, 10.<edge>.0.0/16 and fd00:<edge>::/32.
pub(crate) fn site(edge: usize) -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(10, edge as u8, 0, 0), 16);
    let v6 = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, edge as u16, 0, 0, 0, 0, 0, 0), 32);
    [v4.into(), v6.into()]
}

/// A prefix that belongs to now this edge, now that: a network of its own, or a part of a site.
pub(crate) fn floating(number: usize) -> IpNet {
    let number = number as u8;
    let address = match number % 2 {
        0 => Ipv4Addr::new(172, 16, number, 0),
        _ => Ipv4Addr::new(10, number / 2, 100 + number, 0),
    };
    Ipv4Net::new_assert(address, 24).into()
}

/// A part of a site's IPv4 prefix that none of its own flows uses: what another edge claims wrongly.
pub(crate) fn coveted(edge: usize) -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(10, edge as u8, 250, 0), 24).into()
}

/// A host in a prefix.
pub(crate) fn host(prefix: IpNet, number: u8) -> IpAddr {
    match prefix {
        IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + u32::from(number)).into()),
        IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + u128::from(number)).into()),
    }
}
