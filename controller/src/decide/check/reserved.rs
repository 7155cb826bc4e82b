//! Reserved addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use cframe_protocol::reserved::{CLOUD_RANGES, service_around, services_inside};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why a site cannot have all of these addresses. A prefix that contains a reserved range would capture it, and is
/// refused too; one that only contains addresses of clouds' services is not, as edges never route those.
pub(super) fn overlapping(net: IpNet) -> Option<String> {
    if net.prefix_len() == 0 {
        return Some("it is the default route, and would capture everything".to_owned());
    }
    let shared = RANGES.iter().find(|(range, _)| shares(net, *range));
    if let Some((range, what)) = shared {
        if range.contains(&net) {
            return Some(format!("it is {what} ({range})"));
        }
        let mut why = format!("it contains {range}, which is {what}");
        if let Some(hidden) = hidden(net) {
            why.push_str(&format!(", and would hide {hidden}"));
        }
        return Some(why);
    }
    let service = service_around(net)?;
    Some(format!(
        "it is the address of {} ({}), which each host reaches on its own network; behind the mesh another site would \
         answer",
        service.what, service.net
    ))
}

/// Warnings about a prefix that is allowed.
pub(super) fn warnings(net: IpNet) -> Vec<String> {
    let mut warnings = Vec::new();
    let services: Vec<String> =
        services_inside(net).map(|service| format!("{} ({})", service.net, service.what)).collect();
    if !services.is_empty() {
        warnings.push(format!(
            "{net} contains addresses of clouds' own services, which are not routed into the mesh: {}",
            services.join(", ")
        ));
    }
    for range in CLOUD_RANGES.iter().filter(|range| range.net.contains(&net)) {
        warnings.push(format!("{net} is in {}, which is {}", range.net, range.what));
    }
    if let Some(what) = hidden(net) {
        warnings.push(format!("{net} hides {what} from the hosts behind other edges"));
    }
    warnings
}

/// What a prefix hides that is probably not the site's.
fn hidden(net: IpNet) -> Option<&'static str> {
    let shortest = match net {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 16,
    };
    // Shorter than a /13 or a /29, nobody has that many public addresses of one site.
    let (most, private) = match net {
        IpNet::V4(_) => (13, PRIVATE.iter().any(|range| range.contains(&net))),
        IpNet::V6(net) => (29, !GLOBAL.contains(&net) && !shares(GLOBAL.into(), net.into())),
    };
    if private && net.prefix_len() >= shortest.min(8) {
        return None;
    }
    if net.prefix_len() < shortest {
        return Some(
            "a large part of the internet's addresses, among them those of servers, resolvers and mirrors",
        );
    }
    (net.prefix_len() < most).then_some("many of the internet's addresses")
}

/// RFC 1918, RFC 6598, RFC 2544: not the internet's.
const PRIVATE: [IpNet; 5] = [
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),
    v4([198, 18, 0, 0], 15),
];

/// Global unicast (RFC 4291).
const GLOBAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

fn shares(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

const RANGES: [(IpNet, &str); 11] = [
    (v4([0, 0, 0, 0], 8), "\"this network\" (RFC 791)"),
    (v4([127, 0, 0, 0], 8), "loopback (RFC 1122)"),
    (v4([169, 254, 0, 0], 16), "link-local, where clouds serve their metadata (RFC 3927)"),
    (v4([224, 0, 0, 0], 4), "multicast (RFC 5771)"),
    (v4([255, 255, 255, 255], 32), "broadcast (RFC 919)"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "the unspecified address (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback (RFC 4291)"),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "mapped IPv4 (RFC 4291)"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local (RFC 4291)"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "deprecated site-local (RFC 3879)"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast (RFC 4291)"),
];

const fn v4([a, b, c, d]: [u8; 4], len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], len: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), len))
}
