//! What our routing table should hold, and the difference to what it does. Pure.
//!
//! For each prefix of another site: a route into the TUN, and behind it, of a worse metric, one that
//! says "unreachable", so that nothing leaves in the clear when the device is gone. Where such a
//! prefix meets what is directly connected: a `throw`, which sends the look-up on to the main table,
//! so that the local network is never stolen. What belongs in a place of the table follows from the place alone ([`Intent::at`]), so that
//! one edit costs one place, and a whole reconcile is the same function over the union of what is
//! wanted and what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

/// Metrics in our table: the lower wins among routes of one prefix.
pub mod metric {
    /// Of a `throw`: a local subnet is never stolen.
    pub const THROW: u32 = 50;
    /// Of a route into the tunnel.
    pub const DEVICE: u32 = 100;
    /// Of the route behind it.
    pub const UNREACHABLE: u32 = 4096;

    /// All of them.
    pub const ALL: [u32; 3] = [THROW, DEVICE, UNREACHABLE];
}

/// A place in the table; the kernel keeps one route per place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The destination.
    pub net: IpNet,
    /// One of [`metric`].
    pub metric: u32,
}

/// What is in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into the device of this number, from this address if the host chooses.
    Device {
        /// The device.
        index: u32,
        /// `prefsrc`.
        source: Option<IpAddr>,
    },
    /// An ICMP error to the sender.
    Unreachable,
    /// On to the next rule.
    Throw,
    /// Nothing that we make.
    Foreign,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it is.
    pub place: Place,
    /// What it does.
    pub target: Target,
}

/// What the host's own networks are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// What is reached without a gateway, except through the TUN.
    pub connected: BTreeSet<IpNet>,
    /// Those of them that are subnets of the host's addresses. A prefix inside one is local; inside
    /// another kind of route, such as that of another tunnel, the more specific counts as ever.
    pub subnets: BTreeSet<IpNet>,
    /// The host's addresses, best first.
    pub addresses: Vec<IpAddr>,
}

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Intent {
    device: Option<u32>,
    foreign: BTreeSet<IpNet>,
    own: BTreeSet<IpNet>,
    local: Local,
    source: [Option<IpAddr>; 2],
    cut: bool,
}

/// What to do to the kernel's table; see [`Intent::plan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Routes to delete, by their place in the list that was given.
    pub stale: Vec<usize>,
    /// Routes to make, each replacing whatever is in its place.
    pub missing: Vec<Route>,
}

impl Intent {
    /// Where routes lead; `None` while there is no device.
    pub fn set_device(&mut self, index: Option<u32>) {
        self.device = index;
    }

    /// Cut off from the mesh: prefixes stay, as unreachable.
    pub fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
    }

    /// Adds a prefix, ours or another site's.
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

    /// Removes a prefix.
    pub fn remove(&mut self, net: &IpNet) {
        self.foreign.remove(net);
        if self.own.remove(net) {
            self.choose_sources();
        }
    }

    /// Replaces what is known of the host's networks; says whether that changes anything here.
    pub fn set_local(&mut self, local: Local) -> bool {
        if self.local == local {
            return false;
        }
        self.local = local;
        self.choose_sources();
        true
    }

    /// The address that the host speaks to the mesh from: one of its own inside our site.
    pub fn source(&self, v6: bool) -> Option<IpAddr> {
        self.source[usize::from(v6)]
    }

    /// The prefixes of other sites.
    pub fn foreign(&self) -> &BTreeSet<IpNet> {
        &self.foreign
    }

    /// Our own prefixes.
    pub fn own(&self) -> &BTreeSet<IpNet> {
        &self.own
    }

    /// The host's networks.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// What belongs in a place.
    pub fn at(&self, place: &Place) -> Option<Target> {
        let Place { net, metric } = place;
        match *metric {
            metric::THROW => {
                let inside = self.local.connected.contains(net) && covers_any(&self.foreign, net);
                let around = self.foreign.contains(net) && covers_any(&self.local.subnets, net);
                (inside || around).then_some(Target::Throw)
            }
            metric::DEVICE if self.foreign.contains(net) && !self.cut => {
                let source = self.source(net.addr().is_ipv6());
                self.device.map(|index| Target::Device { index, source })
            }
            metric::UNREACHABLE if self.foreign.contains(net) => Some(Target::Unreachable),
            _ => None,
        }
    }

    /// The places that a change of `nets` can concern: theirs, and those of the connected subnets
    /// inside them.
    pub fn affected(&self, nets: impl IntoIterator<Item = IpNet>) -> BTreeSet<Place> {
        let mut affected: BTreeSet<IpNet> = nets.into_iter().collect();
        let inside: Vec<IpNet> =
            self.local.connected.iter().filter(|net| covers_any(&affected, net)).copied().collect();
        affected.extend(inside);
        places(affected)
    }

    /// All places that should hold something.
    pub fn wanted(&self) -> BTreeMap<Place, Target> {
        places(self.foreign.iter().chain(&self.local.connected).copied())
            .into_iter()
            .filter_map(|place| self.at(&place).map(|target| (place, target)))
            .collect()
    }

    /// The difference of the whole table to what is wanted, over the union of both.
    ///
    /// A wrong route whose place gets a new one isn't stale: the new one replaces it, so that there is
    /// no moment without a route.
    pub fn plan(&self, table: &[Route]) -> Plan {
        let mut missing = self.wanted();
        let mut wrong = Vec::new();
        for (index, route) in table.iter().enumerate() {
            if self.at(&route.place) == Some(route.target) {
                missing.remove(&route.place);
            } else {
                wrong.push((index, route.place));
            }
        }
        wrong.retain(|(_, place)| !missing.contains_key(place));
        Plan {
            stale: wrong.into_iter().map(|(index, _)| index).collect(),
            missing: missing.into_iter().map(|(place, target)| Route { place, target }).collect(),
        }
    }

    fn choose_sources(&mut self) {
        for v6 in [false, true] {
            let ours =
                |ip: &&IpAddr| ip.is_ipv6() == v6 && covers_any(&self.own, &IpNet::from(**ip));
            self.source[usize::from(v6)] = self.local.addresses.iter().find(ours).copied();
        }
    }
}

/// Whether one of `nets` contains `net`: a look-up per prefix length, however many `nets` there are.
fn covers_any(nets: &BTreeSet<IpNet>, net: &IpNet) -> bool {
    std::iter::successors(Some(*net), IpNet::supernet).any(|wider| nets.contains(&wider.trunc()))
}

fn places(nets: impl IntoIterator<Item = IpNet>) -> BTreeSet<Place> {
    let all = |net| metric::ALL.map(|metric| Place { net, metric });
    nets.into_iter().flat_map(all).collect()
}

#[cfg(test)]
mod tests;
