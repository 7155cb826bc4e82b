//! Reserved addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why a site cannot have all of these addresses. A prefix that contains a reserved range would capture it, and is
/// refused too.
pub(super) fn overlapping(net: IpNet) -> Option<String> {
    if net.prefix_len() == 0 {
        return Some("it is the default route, and would capture everything".to_owned());
    }
    let (range, what) = RANGES.iter().find(|(range, _)| shares(net, *range))?;
    let (range, what) = (*range, *what);
    Some(if range.contains(&net) {
        format!("it is {what} ({range})")
    } else {
        format!("it contains {range}, which is {what}")
    })
}

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
