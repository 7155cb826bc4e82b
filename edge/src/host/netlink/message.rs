//! Netlink messages from and to the types of the rest of the program. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};
use rtnetlink::IpVersion;

use super::{Exit, Way};
use crate::host::{
    networks::{HostAddress, Link, MainRoute, RouteKind},
    reconcile::{Rank, Route, RouteKey, Target},
    rules::Packet,
};

/// The protocol of routes and rules of this program: a number that is unassigned in linux/rtnetlink.h and
/// iproute2.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(207);

/// An address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The number of its device.
    pub device: u32,
    pub ip: IpAddr,
}

pub(super) fn of_route(route: &Route, table: u32) -> Option<RouteMessage> {
    let RouteKey { net, metric } = route.key;
    let mut message = RouteMessage::default();
    message.header.address_family = family(net.addr().is_ipv6());
    message.header.destination_prefix_length = net.prefix_len();
    message.header.protocol = PROTOCOL;
    message.header.scope = RouteScope::Universe;
    message.attributes = vec![
        RouteAttribute::Destination(net.addr().into()),
        RouteAttribute::Table(table),
        RouteAttribute::Priority(metric),
    ];
    message.header.kind = match route.target {
        Target::Device { index, source } => {
            message.attributes.push(RouteAttribute::Oif(index));
            let source = source.map(|source| RouteAttribute::PrefSource(source.into()));
            message.attributes.extend(source);
            if net.addr().is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
            RouteType::Unicast
        }
        Target::Unreachable => RouteType::Unreachable,
        Target::Throw => RouteType::Throw,
        Target::Foreign => return None,
    };
    Some(message)
}

/// For a deletion by key: the kernel compares only the attributes that are there (`fib_table_delete`,
/// `ip6_route_del`).
pub(super) fn of_key(key: &RouteKey, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(key.net.addr().is_ipv6());
    message.header.destination_prefix_length = key.net.prefix_len();
    message.header.scope = RouteScope::NoWhere;
    message.attributes = vec![
        RouteAttribute::Destination(key.net.addr().into()),
        RouteAttribute::Table(table),
        RouteAttribute::Priority(key.metric),
    ];
    message
}

pub(super) fn to_route(message: &RouteMessage) -> Option<Route> {
    let net = destination(message)?;
    let mut metric = 0;
    let mut device = None;
    let mut source = None;
    let mut unusual = message.header.tos != 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                unusual = true;
            }
            _ => {}
        }
    }
    let target = match (message.header.kind, device) {
        _ if unusual => Target::Foreign,
        (RouteType::Unicast, Some(index)) => Target::Device { index, source },
        (RouteType::Unreachable, _) => Target::Unreachable,
        (RouteType::Throw, _) => Target::Throw,
        _ => Target::Foreign,
    };
    Some(Route { key: RouteKey { net, metric }, target })
}

pub(super) fn table(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| u32::from(message.header.table))
}

pub(super) fn describe(message: &RouteMessage) -> String {
    match destination(message) {
        Some(net) => format!("route {net}"),
        None => "a route".to_owned(),
    }
}

/// The request for a dump, which the kernel filters.
pub(super) fn dump(version: IpVersion, table: u32, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(version == IpVersion::V6);
    message.header.kind = kind;
    message.attributes = vec![RouteAttribute::Table(table)];
    message
}

/// The subnet of a route in the main table without a gateway and not through the device `except`.
pub(super) fn connected(message: &RouteMessage, except: Option<u32>) -> Option<IpNet> {
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    if table(message) != main || message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut device = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::NhId(_) => return None,
            _ => {}
        }
    }
    let net = destination(message)?;
    let default = net.prefix_len() == 0;
    let link_local =
        matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast());
    (device.is_some() && device != except && !default && !link_local).then_some(net)
}

/// Whether the kernel has added a route for an address.
pub(super) fn is_by_kernel(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::Kernel
}

pub(super) fn lookup(to: IpAddr, mark: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.is_ipv6());
    message.header.destination_prefix_length = if to.is_ipv6() { 128 } else { 32 };
    message.attributes = vec![RouteAttribute::Destination(to.into()), RouteAttribute::Mark(mark)];
    message
}

/// The lookup of a packet's way. Only IPv4 has to be asked for the table.
pub(super) fn lookup_packet(to: IpAddr, packet: &Packet) -> RouteMessage {
    let mut message = lookup(to, 0);
    message.attributes.truncate(1);
    if to.is_ipv4() {
        message.header.flags = RouteFlags::LookupTable;
    }
    message.header.tos = packet.tos;
    if packet.mark != 0 {
        message.attributes.push(RouteAttribute::Mark(packet.mark));
    }
    if let Some(from) = packet.from {
        message.header.source_prefix_length = message.header.destination_prefix_length;
        message.attributes.push(RouteAttribute::Source(from.into()));
    }
    message.attributes.extend(packet.iif.as_ref().map(|(_, index)| RouteAttribute::Iif(*index)));
    message.attributes.extend(packet.protocol.map(RouteAttribute::IpProto));
    message.attributes.extend(packet.source_port.map(RouteAttribute::Sport));
    message.attributes.extend(packet.port.map(RouteAttribute::Dport));
    message
}

pub(super) fn way(message: &RouteMessage) -> Option<Way> {
    exit(message).map(|exit| Way { device: exit.device, table: table(message) })
}

/// A route of the main table that can take precedence over the mesh, or be a default route.
pub(super) fn main_route(message: &RouteMessage) -> Option<MainRoute> {
    if table(message) != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let mut route = MainRoute {
        net: destination(message)?,
        metric: 0,
        kind: RouteKind::Direct,
        device: 0,
        source: None,
    };
    let by_kernel = is_by_kernel(message);
    if by_kernel {
        route.kind = RouteKind::Subnet;
    }
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => route.device = *index,
            RouteAttribute::PrefSource(source) if !by_kernel => route.source = ip(source),
            RouteAttribute::MultiPath(hops) => {
                route.kind = RouteKind::Gateway;
                let first = hops.first().map_or(0, |hop| hop.interface_index);
                let is_one = hops.iter().all(|hop| hop.interface_index == first);
                route.device = if is_one { first } else { 0 };
            }
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::NhId(_) => {
                route.kind = RouteKind::Gateway;
            }
            _ => {}
        }
    }
    match message.header.kind {
        RouteType::Unicast if route.kind == RouteKind::Gateway => {
            if message.header.protocol == RouteProtocol::Ra {
                route.kind = RouteKind::Advertised;
            }
        }
        RouteType::Unicast => {}
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
            route.kind = RouteKind::Gateway;
        }
        _ => return None,
    }
    Some(route)
}

pub(super) fn host_address(message: &AddressMessage) -> Option<HostAddress> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let ip = local.or(address)?;
    let usable = to_address(message).is_some();
    let alone = message.header.prefix_len == if ip.is_ipv6() { 128 } else { 32 };
    // On IPv6, the flag means a temporary address.
    let secondary = flags.contains(AddressFlags::Secondary);
    let rank = Rank {
        passing: flags.contains(AddressFlags::Deprecated) || secondary && ip.is_ipv6(),
        added: alone || secondary && ip.is_ipv4(),
    };
    Some(HostAddress { device: message.header.index, ip, rank: usable.then_some(rank) })
}

pub(super) fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    link
}

pub(super) fn exit(message: &RouteMessage) -> Option<Exit> {
    let mut exit = Exit { device: 0, source: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => exit.device = *index,
            RouteAttribute::PrefSource(source) => exit.source = ip(source),
            _ => {}
        }
    }
    let leaves = matches!(message.header.kind, RouteType::Unicast | RouteType::Local);
    (leaves && exit.device != 0).then_some(exit)
}

pub(super) fn to_address(message: &AddressMessage) -> Option<Address> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let mut local = None;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let unverified = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
        && !flags.contains(AddressFlags::Optimistic);
    // On a point-to-point device, `Address` is the address of the other end.
    let ip = local.or(address)?;
    let usable = message.header.scope == AddressScope::Universe && !unverified && !ip.is_loopback();
    usable.then_some(Address { device: message.header.index, ip })
}

pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let len = message.header.destination_prefix_length;
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    IpNet::new(address.unwrap_or(any), len).ok()
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// Whether an answer has the requested family: a kernel without IPv6 answers with all families.
pub(super) fn has_family(found: AddressFamily, version: &IpVersion) -> bool {
    found == family(*version == IpVersion::V6)
}

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::reconcile::metric;

    fn route(net: &str, metric: u32, target: Target) -> Route {
        let net = net.parse().unwrap();
        Route { key: RouteKey { net, metric }, target }
    }

    #[test]
    fn a_route_is_read_back_as_it_was_sent() {
        let source = Some("10.1.0.5".parse().unwrap());
        for route in [
            route("10.2.0.0/16", metric::DEVICE, Target::Device { index: 7, source }),
            route("fd00:2::/32", metric::DEVICE, Target::Device { index: 7, source: None }),
            route("10.2.0.0/16", metric::UNREACHABLE, Target::Unreachable),
            route("fd00:2::/32", metric::UNREACHABLE, Target::Unreachable),
            route("172.17.0.0/16", metric::THROW, Target::Throw),
        ] {
            let message = of_route(&route, 0xcf_1234).unwrap();
            assert_eq!(to_route(&message), Some(route));
            assert_eq!(table(&message), 0xcf_1234);
        }
    }

    #[test]
    fn a_route_over_a_gateway_is_foreign() {
        let ours = route("10.2.0.0/16", metric::DEVICE, Target::Device { index: 7, source: None });
        let mut message = of_route(&ours, 300).unwrap();
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into())));
        assert_eq!(to_route(&message).unwrap().target, Target::Foreign);
    }

    #[test]
    fn only_direct_routes_of_other_devices_are_connected() {
        let direct = |net: &str, index| {
            let route = route(net, 0, Target::Device { index, source: None });
            of_route(&route, u32::from(RouteHeader::RT_TABLE_MAIN)).unwrap()
        };
        assert_eq!(
            connected(&direct("10.2.0.0/16", 3), Some(7)),
            Some("10.2.0.0/16".parse().unwrap())
        );
        assert_eq!(connected(&direct("10.2.0.0/16", 7), Some(7)), None, "the TUN");
        assert_eq!(connected(&direct("0.0.0.0/0", 3), Some(7)), None, "a default route over ppp");
        assert_eq!(connected(&direct("fe80::/64", 3), Some(7)), None, "link-local");
        let mut far = direct("10.2.0.0/16", 3);
        far.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into())));
        assert_eq!(connected(&far, Some(7)), None, "over a gateway");
    }
}
