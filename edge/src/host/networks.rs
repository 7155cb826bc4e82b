//! The host's own networks, addresses and devices, kept up to date from the kernel's notifications. Pure.
//!
//! A router can have a million routes, so that none of them is read again for an event: each change is
//! applied to what is known, and a whole dump replaces it only at the start, after lost notifications and
//! on a timer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::reconcile::{HostNetworks, Local, Rank, covers_any, covers_strictly, inside, last_net};

/// Routes inside one prefix of the site that are told apart.
const MAX_SITE_ROUTES: usize = 4096;
/// Two routes of one bit are another form of a default route.
const MIN_ROUTE_LEN: u8 = 2;

/// Gateway routes are not listed by device, because one device can have all routes of the internet.
type Key = (IpNet, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainRoute {
    pub net: IpNet,
    pub metric: u32,
    pub kind: RouteKind,
    /// The device's number; 0 without one, or with several.
    pub device: u32,
    /// The source address that it sets, unless the kernel made it with an address.
    pub source: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Made by the kernel with an address.
    Subnet,
    /// To a device, without a gateway.
    Direct,
    /// Over a router, or refused: blackhole, unreachable, prohibit.
    Gateway,
    /// Over a router that has advertised it (`RTPROT_RA`).
    Advertised,
}

/// An address of the host, also one that cannot be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddress {
    pub device: u32,
    pub ip: IpAddr,
    /// `None` if it cannot be used: tentative, a duplicate, or not global.
    pub rank: Option<Rank>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub mtu: u32,
    pub loopback: bool,
}

/// One notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Route(MainRoute),
    NoRoute(MainRoute),
    Address(HostAddress),
    NoAddress(HostAddress),
    Link(Link),
    NoLink(u32),
}

/// What changes mean for the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// What [`Networks::local`] returns may be another.
    pub local: bool,
    /// Routes may be gone that the kernel did not report: all must be read again.
    pub unknown: bool,
}

#[derive(Debug, Default)]
pub struct Networks {
    /// The edge's own device, which does not count.
    tun: Option<u32>,
    routes: BTreeMap<Key, MainRoute>,
    /// The keys of routes without a gateway.
    direct: HashMap<u32, BTreeSet<Key>>,
    /// How many routes over a gateway each device has.
    gateways: HashMap<u32, usize>,
    addresses: BTreeMap<(u32, IpAddr), (u64, Option<Rank>)>,
    links: BTreeMap<u32, Link>,
    /// Routes over gateways inside prefixes of other sites.
    inner: BTreeSet<IpNet>,
    /// The number of the last address, in the order in which they appeared.
    appeared: u64,
}

impl Networks {
    pub fn set_tun(&mut self, index: Option<u32>) {
        self.tun = index;
    }

    /// Removes everything before a whole dump is applied. Addresses keep their order.
    pub fn clear(&mut self, foreign: &BTreeSet<IpNet>, dump: Vec<Change>) {
        let before = std::mem::take(&mut self.addresses);
        self.routes.clear();
        self.direct.clear();
        self.gateways.clear();
        self.links.clear();
        self.inner.clear();
        for change in dump {
            if let Change::Address(address) = change {
                let key = (address.device, address.ip);
                let order = before.get(&key).map(|(order, _)| *order);
                let order = order.unwrap_or_else(|| self.next_order());
                self.addresses.insert(key, (order, address.rank));
            } else {
                self.apply(&change, foreign);
            }
        }
    }

    /// `foreign`: the prefixes of other sites.
    pub fn apply(&mut self, change: &Change, foreign: &BTreeSet<IpNet>) -> Effect {
        let local = Effect { local: true, unknown: false };
        match change {
            Change::Route(route) => {
                let old = self.remove(&(route.net, route.metric), foreign);
                self.insert(*route, foreign);
                Effect { local: old || self.concerns(route, foreign), unknown: false }
            }
            Change::NoRoute(route) => {
                let removed = self.remove(&(route.net, route.metric), foreign);
                Effect { local: removed, unknown: false }
            }
            Change::Address(address) => {
                let key = (address.device, address.ip);
                let order = match self.addresses.get(&key) {
                    Some((_, rank)) if *rank == address.rank => return Effect::default(),
                    Some((order, _)) => *order,
                    None => self.next_order(),
                };
                self.addresses.insert(key, (order, address.rank));
                local
            }
            Change::NoAddress(address) => {
                let gone = self.addresses.remove(&(address.device, address.ip)).is_some();
                // The kernel removes IPv4 routes with this source and does not report it (`fib_sync_down_addr`).
                let is_source = |route: &MainRoute| route.source == Some(address.ip);
                let unknown = self.sources() && self.routes.values().any(is_source);
                Effect { local: gone, unknown }
            }
            Change::Link(link) => {
                let was_up = self.links.get(&link.index).is_some_and(|before| before.up);
                self.links.insert(link.index, link.clone());
                match was_up && !link.up {
                    true => self.forget_routes(link.index, foreign),
                    false => Effect::default(),
                }
            }
            Change::NoLink(index) => {
                self.links.remove(index);
                let before = self.addresses.len();
                self.addresses.retain(|(device, _), _| device != index);
                let effect = self.forget_routes(*index, foreign);
                Effect { local: effect.local || before != self.addresses.len(), ..effect }
            }
        }
    }

    /// A prefix has become one of another site: routes inside it count from now on. Returns whether there
    /// are any.
    pub fn add_foreign(&mut self, prefix: IpNet) -> bool {
        let range = (prefix.trunc(), 0)..=(last_net(prefix), u32::MAX);
        let found: Vec<IpNet> = self
            .routes
            .range(range)
            .filter(|((net, _), route)| *net != prefix && self.counts_inside(route))
            .map(|((net, _), _)| *net)
            .collect();
        self.inner.extend(&found);
        !found.is_empty()
    }

    /// A prefix is no longer one of another site.
    pub fn remove_foreign(&mut self, prefix: IpNet, foreign: &BTreeSet<IpNet>) {
        let gone: Vec<IpNet> = inside(&self.inner, prefix)
            .filter(|net| !covers_strictly(foreign, net))
            .copied()
            .collect();
        for net in gone {
            self.inner.remove(&net);
        }
    }

    /// The networks that take precedence over the mesh, and the addresses that can be sources. Only what
    /// overlaps a prefix of another site is in it.
    pub fn local(&self, foreign: &BTreeSet<IpNet>) -> Local {
        let overlaps =
            |net: &IpNet| covers_any(foreign, net) || inside(foreign, *net).next().is_some();
        let mut local = self.connected(overlaps);
        local.routes = self.inner.clone();
        local.addresses = self.sources_by_rank();
        local
    }

    /// Networks without a gateway that are wanted, without those of the TUN and link-local ones.
    fn connected(&self, wanted: impl Fn(&IpNet) -> bool) -> Local {
        let mut local = Local::default();
        for key in self.direct.values().flatten() {
            let Some(route) = self.routes.get(key) else { continue };
            let net = route.net;
            let counts =
                Some(route.device) != self.tun && net.prefix_len() != 0 && !is_link_local(net);
            if counts && wanted(&net) {
                local.connected.insert(net);
                if route.kind == RouteKind::Subnet {
                    local.subnets.insert(net);
                }
            }
        }
        local
    }

    /// What other parts of the program need to know: all networks of the host, also those that overlap no
    /// prefix of another site.
    ///
    /// `own`: this site's prefixes.
    pub fn published(&self, own: &BTreeSet<IpNet>) -> HostNetworks {
        let usable = self.addresses.iter().filter(|(_, (_, rank))| rank.is_some());
        let local = Local { routes: self.inner.clone(), ..self.connected(|_| true) };
        HostNetworks {
            devices: self.devices_of(&local),
            local,
            addresses: usable.map(|(key, _)| *key).collect(),
            site_routes: self.site_routes(own),
        }
    }

    /// The devices by which packets for these networks leave. The kernel may have two subnets of the same
    /// network and metric, of which only one is known here, so that addresses count, too.
    fn devices_of(&self, local: &Local) -> BTreeMap<IpNet, BTreeSet<u32>> {
        let mut devices: BTreeMap<IpNet, BTreeSet<u32>> = BTreeMap::new();
        for net in local.connected.iter().chain(&local.routes) {
            let routes = self.routes.range((*net, 0)..=(*net, u32::MAX)).map(|(_, route)| route);
            let found = routes.map(|route| route.device).filter(|device| Some(*device) != self.tun);
            devices.entry(*net).or_default().extend(found);
        }
        for (device, ip) in self.addresses.keys().filter(|(device, _)| Some(*device) != self.tun) {
            let around = std::iter::successors(Some(IpNet::from(*ip)), IpNet::supernet);
            let subnet = around.map(|net| net.trunc()).find(|net| local.subnets.contains(net));
            if let Some(found) = subnet.and_then(|net| devices.get_mut(&net)) {
                found.insert(*device);
            }
        }
        devices
    }

    /// Parts of the site that are not subnets of the host and have a route other than a default one, with
    /// the devices of these routes.
    fn site_routes(&self, own: &BTreeSet<IpNet>) -> BTreeMap<IpNet, BTreeSet<u32>> {
        let mut found: BTreeMap<IpNet, BTreeSet<u32>> = BTreeMap::new();
        let counts =
            |route: &&MainRoute| route.kind != RouteKind::Subnet && Some(route.device) != self.tun;
        for prefix in own {
            let range = (prefix.trunc(), 0)..=(last_net(*prefix), u32::MAX);
            let narrow = self.routes.range(range).map(|(_, route)| route);
            for route in narrow.filter(counts).take(MAX_SITE_ROUTES) {
                found.entry(route.net).or_default().insert(route.device);
            }
            let wide = std::iter::successors(prefix.supernet(), IpNet::supernet);
            for net in wide.filter(|net| net.prefix_len() >= MIN_ROUTE_LEN) {
                let routes = self.routes.range((net.trunc(), 0)..=(net.trunc(), u32::MAX));
                for (_, route) in routes.filter(|(_, route)| counts(route)) {
                    found.entry(*prefix).or_default().insert(route.device);
                }
            }
        }
        found
    }

    /// The device of a network, for messages.
    pub fn device_of(&self, net: IpNet) -> Option<&str> {
        let mut routes = self.routes.range((net, 0)..=(net, u32::MAX));
        let (_, route) = routes.find(|(_, route)| Some(route.device) != self.tun)?;
        self.name(route.device)
    }

    pub fn name(&self, index: u32) -> Option<&str> {
        self.links.get(&index).map(|link| link.name.as_str())
    }

    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// Whether the host has this address now.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|((_, found), (_, rank))| *found == ip && rank.is_some())
    }

    /// The devices behind which these prefixes of the site are, with a network of each.
    pub fn lan(&self, own: &BTreeSet<IpNet>) -> BTreeSet<(u32, IpNet)> {
        let mut devices = BTreeSet::new();
        for prefix in own {
            let range = (prefix.trunc(), 0)..=(last_net(*prefix), u32::MAX);
            let narrow = self.routes.range(range).map(|(_, route)| route);
            let narrow = narrow.filter(|route| self.is_lan(route)).take(64);
            devices.extend(narrow.map(|route| (route.device, route.net)));
            let wide = std::iter::successors(prefix.supernet(), IpNet::supernet);
            for net in wide.filter(|net| net.prefix_len() > 0) {
                let routes = self.routes.range((net.trunc(), 0)..=(net.trunc(), u32::MAX));
                let routes = routes.map(|(_, route)| route).filter(|route| self.is_lan(route));
                devices.extend(routes.map(|route| (route.device, *prefix)));
            }
        }
        devices
    }

    /// The devices whose default route comes from a router advertisement and is used.
    pub fn advertised_defaults(&self) -> BTreeSet<u32> {
        let any = IpNet::V6(Ipv6Net::default());
        let defaults: Vec<&MainRoute> =
            self.routes.range((any, 0)..=(any, u32::MAX)).map(|(_, route)| route).collect();
        let fixed = defaults.iter().filter(|route| route.kind != RouteKind::Advertised);
        let fixed = fixed.map(|route| route.metric).min().unwrap_or(u32::MAX);
        let used = defaults
            .iter()
            .filter(|route| route.kind == RouteKind::Advertised && route.metric < fixed);
        used.map(|route| route.device).collect()
    }

    /// The number of routes.
    pub fn size(&self) -> usize {
        self.routes.len()
    }

    /// The device of the IPv4 default route.
    pub fn default_device(&self) -> Option<u32> {
        let any = IpNet::V4(Ipv4Net::default());
        let mut routes = self.routes.range((any, 0)..=(any, u32::MAX)).map(|(_, route)| route);
        routes.find(|route| self.is_lan(route)).map(|route| route.device)
    }

    fn is_lan(&self, route: &MainRoute) -> bool {
        let loopback = self.links.get(&route.device).is_some_and(|link| link.loopback);
        route.device != 0 && Some(route.device) != self.tun && !loopback
    }

    fn sources(&self) -> bool {
        self.routes.len() < 20_000 || self.routes.values().any(|route| route.source.is_some())
    }

    fn sources_by_rank(&self) -> Vec<(IpAddr, Rank)> {
        let mut found: Vec<_> = self
            .addresses
            .iter()
            .filter(|((device, ip), _)| Some(*device) != self.tun && !is_link_local((*ip).into()))
            .filter_map(|((device, ip), (order, rank))| Some((rank.as_ref()?, device, order, *ip)))
            .collect();
        found.sort();
        found.into_iter().map(|(rank, _, _, ip)| (ip, *rank)).collect()
    }

    fn insert(&mut self, route: MainRoute, foreign: &BTreeSet<IpNet>) {
        let key = (route.net, route.metric);
        match route.kind {
            RouteKind::Subnet | RouteKind::Direct => {
                self.direct.entry(route.device).or_default().insert(key);
            }
            RouteKind::Gateway | RouteKind::Advertised => {
                *self.gateways.entry(route.device).or_default() += 1;
            }
        }
        if self.counts_inside(&route) && covers_strictly(foreign, &route.net) {
            self.inner.insert(route.net);
        }
        self.routes.insert(key, route);
    }

    /// Returns whether there was one that concerned the mesh.
    fn remove(&mut self, key: &Key, foreign: &BTreeSet<IpNet>) -> bool {
        let Some(route) = self.routes.remove(key) else { return false };
        match route.kind {
            RouteKind::Subnet | RouteKind::Direct => {
                if let Some(keys) = self.direct.get_mut(&route.device) {
                    keys.remove(key);
                }
            }
            RouteKind::Gateway | RouteKind::Advertised => {
                if let Some(count) = self.gateways.get_mut(&route.device) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        let mut others = self.routes.range((route.net, 0)..=(route.net, u32::MAX));
        if self.inner.contains(&route.net) && !others.any(|(_, other)| self.counts_inside(other)) {
            self.inner.remove(&route.net);
        }
        self.concerns(&route, foreign)
    }

    /// IPv4 routes of a device that goes down disappear without a notification (`fib_sync_down_dev`).
    fn forget_routes(&mut self, device: u32, foreign: &BTreeSet<IpNet>) -> Effect {
        let mut effect = Effect::default();
        let mut keys: Vec<Key> = self.direct.remove(&device).into_iter().flatten().collect();
        if self.gateways.get(&device).is_some_and(|count| *count > 0) {
            let of_device = self.routes.iter().filter(|(_, route)| route.device == device);
            keys.extend(of_device.map(|(key, _)| *key));
        }
        for key in keys {
            effect.local |= self.remove(&key, foreign);
        }
        self.direct.remove(&device);
        // Routes with several next hops.
        effect.unknown = self.gateways.get(&0).is_some_and(|count| *count > 0);
        effect
    }

    fn counts_inside(&self, route: &MainRoute) -> bool {
        let kind = matches!(route.kind, RouteKind::Gateway | RouteKind::Advertised);
        kind && Some(route.device) != self.tun && route.net.prefix_len() > 0
    }

    fn concerns(&self, route: &MainRoute, foreign: &BTreeSet<IpNet>) -> bool {
        match route.kind {
            RouteKind::Gateway | RouteKind::Advertised => covers_strictly(foreign, &route.net),
            RouteKind::Subnet | RouteKind::Direct => {
                route.net.prefix_len() > 0
                    && (covers_any(foreign, &route.net)
                        || inside(foreign, route.net).next().is_some())
            }
        }
    }

    fn next_order(&mut self) -> u64 {
        self.appeared += 1;
        self.appeared
    }
}

fn is_link_local(net: IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast())
}

#[cfg(test)]
mod tests;
