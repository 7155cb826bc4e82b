//! What the edge's routing table should contain, and how it differs from the kernel's. Pure.
//!
//! Each prefix of another site has a route into the TUN and, with a worse metric, an unreachable route:
//! without the device, no packet leaves unencrypted. Where such a prefix overlaps a directly connected
//! subnet there is a `throw` route, which continues the lookup in the main table: the local network
//! always takes precedence. So do routes over a router that are more specific than the prefix, and the
//! addresses at which clouds serve their own hosts.
//!
//! [`Intent::at`] decides what one place of the table should contain. One edit evaluates it for the
//! keys that it affects, and a full reconcile for all keys, wanted or present.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use cframe_protocol::reserved::{SERVICE_ADDRESSES, services_inside};
use ipnet::IpNet;

/// Metrics in the edge's table: among routes of one prefix, the lowest is used.
pub mod metric {
    pub const THROW: u32 = 50;
    pub const DEVICE: u32 = 100;
    pub const UNREACHABLE: u32 = 4096;

    pub const ALL: [u32; 3] = [THROW, DEVICE, UNREACHABLE];
}

/// The key of a route in the table. The kernel has one route per key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    pub net: IpNet,
    /// One of [`metric`].
    pub metric: u32,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Sends packets into the device with this number.
    Device {
        index: u32,
        /// The source address for packets of the host itself (`prefsrc`).
        source: Option<IpAddr>,
    },
    /// Answers with an ICMP error.
    Unreachable,
    /// Continues with the next rule.
    Throw,
    /// Something that this program never adds.
    Foreign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub key: RouteKey,
    pub target: Target,
}

/// The host's own networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// Networks that are reached without a gateway, except through the TUN.
    pub connected: BTreeSet<IpNet>,
    /// Those of them that are subnets of the host's addresses. A prefix inside one of these is local.
    /// Inside other connected networks, such as another tunnel's, the more specific route is used.
    pub subnets: BTreeSet<IpNet>,
    /// Routes over a router.
    pub routes: BTreeSet<IpNet>,
    /// The host's addresses, the preferred ones first.
    pub addresses: Vec<(IpAddr, Rank)>,
}

/// The host's networks, and its addresses with the numbers of their devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNetworks {
    pub local: Local,
    pub addresses: BTreeSet<(u32, IpAddr)>,
    /// Parts of this site that routes lead to, with the devices of these routes; 0: none, or several.
    pub site_routes: BTreeMap<IpNet, BTreeSet<u32>>,
    /// The devices by which the connected networks and the routes of [`Local`] leave; 0: none, or several.
    pub devices: BTreeMap<IpNet, BTreeSet<u32>>,
}

/// How good an address is as a source: the lowest is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Deprecated, or temporary (RFC 8981).
    pub passing: bool,
    /// Secondary, or alone in its subnet, as virtual addresses are (RFC 9568).
    pub added: bool,
}

/// What the table should contain, by prefixes, device and the host's networks.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    device: Option<u32>,
    foreign: BTreeSet<IpNet>,
    own: BTreeSet<IpNet>,
    local: Local,
    source: [Option<IpAddr>; 2],
    cut: bool,
}

/// How to correct the kernel's table; see [`Intent::plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Routes to delete, as indices of the list that was given.
    pub stale: Vec<usize>,
    /// Routes to add, each replacing the one at its key.
    pub missing: Vec<Route>,
}

impl Intent {
    /// The number of the device that routes lead to; `None` while there is none.
    pub fn set_device(&mut self, index: Option<u32>) {
        self.device = index;
    }

    /// Cut off from the mesh: all prefixes are unreachable.
    pub fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
    }

    /// Adds a prefix of this site (`own`) or of another.
    pub fn add(&mut self, net: IpNet, own: bool) {
        let (to, from) = match own {
            true => (&mut self.own, &mut self.foreign),
            false => (&mut self.foreign, &mut self.own),
        };
        to.insert(net);
        from.remove(&net);
        if own {
            self.choose_sources();
        }
    }

    pub fn remove(&mut self, net: &IpNet) {
        self.foreign.remove(net);
        if self.own.remove(net) {
            self.choose_sources();
        }
    }

    /// Replaces the host's networks and returns the keys that may hold another route than before; `None` if
    /// these are all of them, because the source address is another one.
    pub fn set_local(&mut self, local: Local) -> Option<BTreeSet<RouteKey>> {
        if self.local == local {
            return Some(BTreeSet::new());
        }
        let old = std::mem::replace(&mut self.local, local);
        let mut nets: BTreeSet<IpNet> = BTreeSet::new();
        nets.extend(old.connected.symmetric_difference(&self.local.connected));
        nets.extend(old.routes.symmetric_difference(&self.local.routes));
        for subnet in old.subnets.symmetric_difference(&self.local.subnets) {
            nets.insert(*subnet);
            nets.extend(inside(&self.foreign, *subnet));
        }
        let sources = self.source;
        self.choose_sources();
        (sources == self.source).then(|| keys(nets))
    }

    /// The source address of the host toward the mesh: one of its own inside this site's prefixes.
    pub fn source(&self, v6: bool) -> Option<IpAddr> {
        self.source[usize::from(v6)]
    }

    pub fn is_cut(&self) -> bool {
        self.cut
    }

    pub fn foreign(&self) -> &BTreeSet<IpNet> {
        &self.foreign
    }

    pub fn own(&self) -> &BTreeSet<IpNet> {
        &self.own
    }

    pub fn local(&self) -> &Local {
        &self.local
    }

    /// What a key should contain.
    pub fn at(&self, key: &RouteKey) -> Option<Target> {
        let RouteKey { net, metric } = key;
        match *metric {
            metric::THROW => {
                let inside = self.local.connected.contains(net) && covers_any(&self.foreign, net);
                let around = self.foreign.contains(net) && covers_any(&self.local.subnets, net);
                let route = self.local.routes.contains(net) && covers_strictly(&self.foreign, net);
                let service = is_service(net) && covers_any(&self.foreign, net);
                (inside || around || route || service).then_some(Target::Throw)
            }
            metric::DEVICE if self.foreign.contains(net) && !self.cut => {
                let source = self.source(net.addr().is_ipv6());
                self.device.map(|index| Target::Device { index, source })
            }
            metric::UNREACHABLE if self.foreign.contains(net) => Some(Target::Unreachable),
            _ => None,
        }
    }

    /// The keys that a change of `nets` can affect: their own, and those of local networks and services
    /// inside them.
    pub fn affected(&self, nets: impl IntoIterator<Item = IpNet>) -> BTreeSet<RouteKey> {
        let mut affected = BTreeSet::new();
        for net in nets {
            affected.insert(net);
            affected.extend(inside(&self.local.connected, net));
            affected.extend(inside(&self.local.routes, net));
            affected.extend(services_inside(net).map(|service| service.net));
        }
        keys(affected)
    }

    /// All keys that should contain a route.
    pub fn wanted(&self) -> BTreeMap<RouteKey, Target> {
        let services = SERVICE_ADDRESSES.iter().map(|service| &service.net);
        let local = self.local.connected.iter().chain(&self.local.routes);
        keys(self.foreign.iter().chain(local).chain(services).copied())
            .into_iter()
            .filter_map(|key| self.at(&key).map(|target| (key, target)))
            .collect()
    }

    /// Whether packets to this address go into the tunnel.
    pub fn is_tunnelled(&self, to: IpAddr) -> bool {
        for net in std::iter::successors(Some(IpNet::from(to)), IpNet::supernet) {
            let key = RouteKey { net: net.trunc(), metric: metric::THROW };
            if self.at(&key).is_some() {
                return false;
            }
            if self.foreign.contains(&key.net) {
                return true;
            }
        }
        false
    }

    /// How to correct a whole table.
    ///
    /// A wrong route whose key gets a new one is not stale: the new one replaces it, so there is no
    /// moment without a route.
    pub fn plan(&self, table: &[Route]) -> Plan {
        let mut missing = self.wanted();
        let mut wrong = Vec::new();
        for (index, route) in table.iter().enumerate() {
            if self.at(&route.key) == Some(route.target) {
                missing.remove(&route.key);
            } else {
                wrong.push((index, route.key));
            }
        }
        wrong.retain(|(_, key)| !missing.contains_key(key));
        Plan {
            stale: wrong.into_iter().map(|(index, _)| index).collect(),
            missing: missing.into_iter().map(|(key, target)| Route { key, target }).collect(),
        }
    }

    /// An address stays the source for as long as no better one appears: one that is added later and later
    /// removed, such as a virtual address, changes nothing.
    fn choose_sources(&mut self) {
        for v6 in [false, true] {
            let own = |(ip, _): &&(IpAddr, Rank)| {
                ip.is_ipv6() == v6 && covers_any(&self.own, &IpNet::from(*ip))
            };
            let usable = || self.local.addresses.iter().filter(own);
            let best = usable().next();
            let used = self.source[usize::from(v6)];
            let used = usable().find(|(ip, _)| Some(*ip) == used);
            let stays = used.zip(best).is_some_and(|(used, best)| used.1 <= best.1);
            let chosen = if stays { used } else { best };
            self.source[usize::from(v6)] = chosen.map(|(ip, _)| *ip);
        }
    }
}

/// Whether one of `nets` contains `net`. It costs one lookup per prefix length, however many `nets` there
/// are.
pub fn covers_any(nets: &BTreeSet<IpNet>, net: &IpNet) -> bool {
    std::iter::successors(Some(*net), IpNet::supernet).any(|wider| nets.contains(&wider.trunc()))
}

/// Whether one of `nets` contains `net` and is wider.
pub fn covers_strictly(nets: &BTreeSet<IpNet>, net: &IpNet) -> bool {
    net.supernet().is_some_and(|wider| covers_any(nets, &wider))
}

/// The last network, in order, that is inside `net`.
pub fn last_net(net: IpNet) -> IpNet {
    IpNet::from(net.broadcast())
}

/// Those of `nets` that are inside `net` or equal to it.
pub fn inside(nets: &BTreeSet<IpNet>, net: IpNet) -> impl Iterator<Item = &IpNet> {
    nets.range(net.trunc()..=last_net(net))
}

fn is_service(net: &IpNet) -> bool {
    SERVICE_ADDRESSES.binary_search_by_key(net, |service| service.net).is_ok()
}

fn keys(nets: impl IntoIterator<Item = IpNet>) -> BTreeSet<RouteKey> {
    let all = |net| metric::ALL.map(|metric| RouteKey { net, metric });
    nets.into_iter().flat_map(all).collect()
}

#[cfg(test)]
mod tests;
