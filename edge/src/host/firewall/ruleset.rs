//! The text of the edge's table for `nft`. Pure.
//!
//! A packet's destination is looked up by longest prefix: one map for each prefix length in use, from the
//! longest to the shortest, whose keys are masked addresses. Maps with exact keys take an edit without
//! reading the others, and cannot refuse prefixes that contain each other, as interval sets do.

mod script;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{
    config::OwnPrefixes,
    host::reconcile::{HostNetworks, Intent, RouteKey, Target, covers_any, inside, metric},
    instance::{Instance, Mark},
};
pub(super) use script::{Changes, Installed, changes, name, removal, table};

/// Devices to which a network is bound. One with more may be reached in any way.
const MAX_DEVICES: usize = 4;

/// What the table must do.
#[derive(Clone, Debug)]
pub struct Ruleset {
    pub instance: Instance,
    /// Of the edge's own packets.
    pub mark: Mark,
    /// Prefixes of the mesh and networks of the host.
    pub intent: Intent,
    /// The host's addresses with the numbers of their devices.
    pub addresses: BTreeSet<(u32, IpAddr)>,
    /// See [`HostNetworks::site_routes`].
    pub site_routes: BTreeMap<IpNet, BTreeSet<u32>>,
    /// See [`HostNetworks::devices`].
    pub devices: BTreeMap<IpNet, BTreeSet<u32>>,
    pub own_prefixes: OwnPrefixes,
    /// Masquerade packets from the mesh toward the site.
    pub snat: bool,
}

/// What happens to packets that leave by another device than a TUN of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Another site: they are dropped.
    Foreign,
    /// This site, and no network of the host leads there: see [`OwnPrefixes`].
    Uncovered,
    /// A network of the host or a route of it leads there: only by its devices, because the moment after it
    /// disappears its packets would leave by the default route.
    Bound(Bound),
    /// It may be reached in any way.
    Local,
}

/// The devices by which packets may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    /// Numbers, in order, and then zeros.
    devices: [u32; MAX_DEVICES],
    /// Whether it is for another site what leaves otherwise.
    foreign: bool,
}

impl Bound {
    /// `None` if the devices are not known: with several next hops, or none.
    fn new(found: &BTreeSet<u32>, foreign: bool) -> Option<Self> {
        if found.is_empty() || found.contains(&0) || found.len() > MAX_DEVICES {
            return None;
        }
        let mut devices = [0; MAX_DEVICES];
        devices.iter_mut().zip(found).for_each(|(place, device)| *place = *device);
        Some(Self { devices, foreign })
    }

    fn devices(&self) -> impl Iterator<Item = u32> {
        self.devices.into_iter().filter(|device| *device != 0)
    }
}

impl Ruleset {
    pub fn new(instance: Instance) -> Self {
        Self {
            instance,
            mark: Mark::default(),
            intent: Intent::default(),
            addresses: BTreeSet::new(),
            site_routes: BTreeMap::new(),
            devices: BTreeMap::new(),
            own_prefixes: OwnPrefixes::Auto,
            snat: false,
        }
    }

    /// What exactly this prefix is; a packet is handled as its longest prefix.
    pub fn at(&self, net: &IpNet) -> Option<Destination> {
        let (intent, local) = (&self.intent, self.intent.local());
        let key = RouteKey { net: *net, metric: metric::THROW };
        let own = intent.own().contains(net);
        let thrown = intent.at(&key) == Some(Target::Throw);
        if thrown
            || own && covers_any(&local.subnets, net)
            || local.connected.contains(net) && covers_any(intent.own(), net)
        {
            let foreign = !covers_any(intent.own(), net);
            let bound = self.devices_toward(net).and_then(|found| Bound::new(found, foreign));
            return Some(bound.map_or(Destination::Local, Destination::Bound));
        }
        if intent.foreign().contains(net) {
            return Some(Destination::Foreign);
        }
        if let Some(devices) = self.site_routes.get(net) {
            let bound = Bound::new(devices, false);
            return Some(bound.map_or(Destination::Local, Destination::Bound));
        }
        own.then_some(match self.own_prefixes {
            OwnPrefixes::Allow => Destination::Local,
            OwnPrefixes::Auto | OwnPrefixes::Block => Destination::Uncovered,
        })
    }

    /// The devices of the network or route that is this prefix, or else of the subnet around it.
    fn devices_toward(&self, net: &IpNet) -> Option<&BTreeSet<u32>> {
        let subnets = &self.intent.local().subnets;
        let around =
            std::iter::successors(net.supernet(), IpNet::supernet).map(|wide| wide.trunc());
        let subnet = || around.into_iter().find(|wide| subnets.contains(wide));
        self.devices.get(net).or_else(|| self.devices.get(&subnet()?))
    }

    /// Replaces what the host has, and returns the networks that may have another destination than before.
    pub(super) fn set_networks(&mut self, networks: HostNetworks) -> BTreeSet<IpNet> {
        let HostNetworks { local, addresses, site_routes, devices } = networks;
        let before = self.intent.local().clone();
        self.intent.set_local(local);
        self.addresses = addresses;
        let routes_before = std::mem::replace(&mut self.site_routes, site_routes);
        let devices_before = std::mem::replace(&mut self.devices, devices);
        let local = self.intent.local();
        let mut changed: BTreeSet<IpNet> = BTreeSet::new();
        changed.extend(before.connected.symmetric_difference(&local.connected));
        changed.extend(before.subnets.symmetric_difference(&local.subnets));
        changed.extend(before.routes.symmetric_difference(&local.routes));
        let differ = |net: &&IpNet| routes_before.get(*net) != self.site_routes.get(*net);
        changed.extend(routes_before.keys().chain(self.site_routes.keys()).filter(differ));
        let differ = |net: &&IpNet| devices_before.get(*net) != self.devices.get(*net);
        changed.extend(devices_before.keys().chain(self.devices.keys()).filter(differ));
        // Prefixes inside a network of the host are its own, too.
        let prefixes = [self.intent.foreign(), self.intent.own()];
        let inner = |net: &IpNet| prefixes.map(|nets| inside(nets, *net).copied());
        let within: Vec<IpNet> = changed.iter().flat_map(inner).flatten().collect();
        changed.extend(within);
        changed
    }

    /// All of them.
    pub(super) fn destinations(&self) -> Changes {
        let intent = &self.intent;
        // What is thrown in the routing table, for any reason, is among the wanted routes.
        let routes = intent.wanted().into_keys().map(|key| key.net);
        let nets = intent.own().iter().chain(&intent.local().connected);
        let nets = nets.chain(self.site_routes.keys()).copied().chain(routes);
        nets.filter_map(|net| Some((net, Some(self.at(&net)?)))).collect()
    }

    /// Devices through which uncovered addresses of the site may be reached, because they have an address
    /// in a prefix of the site: a VPC's router delivers the rest.
    pub fn site_devices(&self, v6: bool) -> BTreeSet<u32> {
        if self.own_prefixes != OwnPrefixes::Auto {
            return BTreeSet::new();
        }
        let inside =
            |ip: &IpAddr| ip.is_ipv6() == v6 && covers_any(self.intent.own(), &IpNet::from(*ip));
        self.addresses.iter().filter(|(_, ip)| inside(ip)).map(|(device, _)| *device).collect()
    }

    /// Prefixes of this site that the host's networks do not cover completely, at most `limit`, each with an
    /// address that they do not cover.
    pub fn uncovered(&self, limit: usize) -> Vec<(IpNet, IpAddr)> {
        let rest = |own: &IpNet| Some((*own, self.uncovered_address(own)?));
        self.intent.own().iter().filter_map(rest).take(limit).collect()
    }

    fn uncovered_address(&self, own: &IpNet) -> Option<IpAddr> {
        let connected = &self.intent.local().connected;
        if covers_any(connected, own) || self.site_routes.contains_key(own) {
            return None;
        }
        let routes = self.site_routes.keys().filter(|net| own.contains(*net));
        let nets = inside(connected, *own).chain(inside(self.intent.foreign(), *own));
        let inside: Vec<IpNet> = nets.chain(routes).copied().collect();
        // Sorted and apart from each other: the first gap is at the start or behind one of them.
        let mut next = Some(own.network());
        for net in IpNet::aggregate(&inside) {
            if next? != net.network() {
                break;
            }
            next = after(net.broadcast());
        }
        next.filter(|address| own.contains(address))
    }
}

/// The next address; `None` after the last.
fn after(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address).checked_add(1)?).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address).checked_add(1)?).into(),
    })
}

#[cfg(test)]
mod tests;
