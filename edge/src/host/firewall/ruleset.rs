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
    /// A subnet of the host inside or around a prefix of another site: only by the devices of such subnets,
    /// because the moment after it disappears its packets would leave by the default route.
    Subnet,
    /// A part of this site to which a route of the host leads: only by the devices of such routes, because
    /// the moment after it disappears its packets would leave by the default route.
    Routed,
    /// A network of the host, or one that may be reached in any way.
    Local,
}

impl Ruleset {
    pub fn new(instance: Instance) -> Self {
        Self {
            instance,
            mark: Mark::default(),
            intent: Intent::default(),
            addresses: BTreeSet::new(),
            site_routes: BTreeMap::new(),
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
        if thrown && covers_any(&local.subnets, net) && !local.routes.contains(net) {
            return Some(Destination::Subnet);
        }
        if thrown
            || own && covers_any(&local.subnets, net)
            || local.connected.contains(net) && covers_any(intent.own(), net)
        {
            return Some(Destination::Local);
        }
        if intent.foreign().contains(net) {
            return Some(Destination::Foreign);
        }
        if let Some(devices) = self.site_routes.get(net) {
            // With several ways, or none, the device is not known.
            let known = !devices.contains(&0);
            return Some(if known { Destination::Routed } else { Destination::Local });
        }
        own.then_some(match self.own_prefixes {
            OwnPrefixes::Allow => Destination::Local,
            OwnPrefixes::Auto | OwnPrefixes::Block => Destination::Uncovered,
        })
    }

    /// Replaces what the host has, and returns the networks that may have another destination than before.
    pub(super) fn set_networks(&mut self, networks: HostNetworks) -> BTreeSet<IpNet> {
        let HostNetworks { local, addresses, site_routes } = networks;
        let before = self.intent.local().clone();
        self.intent.set_local(local);
        self.addresses = addresses;
        let routes_before = std::mem::replace(&mut self.site_routes, site_routes);
        let local = self.intent.local();
        let mut changed: BTreeSet<IpNet> = BTreeSet::new();
        changed.extend(before.connected.symmetric_difference(&local.connected));
        changed.extend(before.subnets.symmetric_difference(&local.subnets));
        changed.extend(before.routes.symmetric_difference(&local.routes));
        let differ = |net: &&IpNet| routes_before.get(*net) != self.site_routes.get(*net);
        changed.extend(routes_before.keys().chain(self.site_routes.keys()).filter(differ));
        // Prefixes inside a network of the host are its own, too.
        let prefixes = [self.intent.foreign(), self.intent.own()];
        let inner = |net: &IpNet| prefixes.map(|nets| inside(nets, *net).copied());
        let within: Vec<IpNet> = changed.iter().flat_map(inner).flatten().collect();
        changed.extend(within);
        changed
    }

    /// The devices of the rules of each kind: see `script`.
    pub(super) fn devices(&self, v6: bool) -> [BTreeSet<u32>; 3] {
        [self.site_devices(v6), self.subnet_devices(v6), self.route_devices(v6)]
    }

    /// The devices of routes to parts of the site.
    fn route_devices(&self, v6: bool) -> BTreeSet<u32> {
        let routes = self.site_routes.iter().filter(|(net, _)| net.addr().is_ipv6() == v6);
        routes.flat_map(|(_, devices)| devices).copied().filter(|device| *device != 0).collect()
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

    /// The devices of subnets that overlap prefixes of other sites.
    pub fn subnet_devices(&self, v6: bool) -> BTreeSet<u32> {
        let (foreign, subnets) = (self.intent.foreign(), &self.intent.local().subnets);
        let overlaps =
            |net: &&IpNet| covers_any(foreign, net) || inside(foreign, **net).next().is_some();
        let overlapping: BTreeSet<IpNet> = subnets.iter().filter(overlaps).copied().collect();
        let is_in = |ip: &IpAddr| ip.is_ipv6() == v6 && covers_any(&overlapping, &IpNet::from(*ip));
        self.addresses.iter().filter(|(_, ip)| is_in(ip)).map(|(device, _)| *device).collect()
    }

    /// Prefixes of this site that the host's networks do not cover completely, each with an address that
    /// they do not cover.
    pub fn uncovered(&self) -> Vec<(IpNet, IpAddr)> {
        let rest = |own: &IpNet| Some((*own, self.uncovered_address(own)?));
        self.intent.own().iter().filter_map(rest).collect()
    }

    fn uncovered_address(&self, own: &IpNet) -> Option<IpAddr> {
        let connected = &self.intent.local().connected;
        if covers_any(connected, own) || self.site_routes.contains_key(own) {
            return None;
        }
        let nets = connected.iter().chain(self.intent.foreign()).chain(self.site_routes.keys());
        let inside: Vec<IpNet> = nets.filter(|net| own.contains(*net)).copied().collect();
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
