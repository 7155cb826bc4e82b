//! Which packets measure the host's forwarding. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{cause::Path, packet::Kind};
use crate::host::netlink::HostAddress;

/// Probes of a round from the site into the mesh, for each family.
const MAX_OUT: usize = 16;
/// Probes of a round into the site, for each family. They go to the site's own hosts by turns: a rule can
/// be about one address.
const MAX_IN: usize = 48;
/// Directions at devices in which other kinds than UDP are tried in a round.
const MAX_OTHERS: usize = 16;
/// Sources of a round on one device.
const SOURCES: usize = 4;
/// Addresses of one network that are tried in a round.
const TARGETS: usize = 16;

/// A part of this site that the host reaches by one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lan {
    /// The number of the device.
    pub(super) device: u32,
    pub(super) name: String,
    pub(super) net: IpNet,
    /// Hosts in it that the kernel knows.
    pub(super) neighbours: Vec<IpAddr>,
    /// Addresses of the host itself.
    pub(super) own: BTreeSet<IpAddr>,
}

/// A packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Probe {
    pub(super) path: Path,
    /// The number of the site's device, or of the uplink.
    pub(super) device: u32,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) kind: Kind,
}

/// The parts of the site's prefixes that are subnets of the host, or inside of one.
pub(super) fn connected<'a>(
    own: &'a [IpNet],
    addresses: &'a [HostAddress],
    skip: impl Fn(u32) -> bool + 'a,
) -> BTreeSet<(u32, IpNet)> {
    let mut found = BTreeSet::new();
    for address in addresses.iter().filter(|address| !skip(address.device)) {
        for prefix in own {
            if prefix.contains(&address.net) {
                found.insert((address.device, address.net));
            } else if address.net.contains(prefix) {
                found.insert((address.device, *prefix));
            }
        }
    }
    found
}

/// The probes of one round: UDP datagrams, and one of each other kind in each direction at each device.
/// `turn` makes each round try other addresses; `suspects` are tried in every round while they are part of
/// the site.
pub(super) fn round(
    lans: &[Lan],
    foreign: &[IpNet],
    suspects: &BTreeSet<Probe>,
    turn: usize,
    others: &[Kind],
) -> Vec<Probe> {
    let kind = Kind::Udp;
    let mut probes = BTreeSet::new();
    for v6 in [false, true] {
        let foreign: Vec<&IpNet> =
            foreign.iter().filter(|net| net.addr().is_ipv6() == v6).collect();
        if foreign.is_empty() {
            continue;
        }
        let lans: Vec<&Lan> = lans.iter().filter(|lan| lan.net.addr().is_ipv6() == v6).collect();
        let mut seed = turn;
        let mut remote = || {
            seed = seed.wrapping_add(1);
            free_address(foreign[seed % foreign.len()], seed, &BTreeSet::new())
        };
        let (mut outgoing, mut incoming) = (0, 0);
        for lan in rotated(&lans, turn) {
            for from in lan.hosts(turn, SOURCES) {
                if outgoing < MAX_OUT
                    && let Some(to) = remote()
                {
                    probes.insert(Probe { path: Path::Out, device: lan.device, from, to, kind });
                    outgoing += 1;
                }
            }
            for to in lan.hosts(turn, TARGETS) {
                if incoming < MAX_IN
                    && let Some(from) = remote()
                {
                    probes.insert(Probe { path: Path::In, device: lan.device, from, to, kind });
                    incoming += 1;
                }
            }
        }
    }
    let mut firsts = BTreeMap::new();
    for probe in &probes {
        firsts.entry((probe.path, probe.device, probe.to.is_ipv6())).or_insert(*probe);
    }
    let firsts: Vec<Probe> = firsts.into_values().collect();
    for probe in rotated(&firsts, turn).take(MAX_OTHERS) {
        probes.extend(others.iter().map(|kind| Probe { kind: *kind, ..*probe }));
    }
    probes.extend(suspects.iter().filter(|suspect| is_current(suspect, lans, foreign)));
    probes.into_iter().collect()
}

/// Whether a probe still measures something: its host is there, and its prefix belongs to another site.
fn is_current(probe: &Probe, lans: &[Lan], foreign: &[IpNet]) -> bool {
    let (here, there) = match probe.path {
        Path::Out => (probe.from, probe.to),
        Path::In => (probe.to, probe.from),
        Path::PortIn | Path::PortOut => return false,
    };
    foreign.iter().any(|net| net.contains(&there))
        && lans.iter().any(|lan| {
            let is_host = lan.neighbours.contains(&here) || lan.neighbours_in_net() == 0;
            lan.device == probe.device && lan.net.contains(&here) && is_host
        })
}

impl Lan {
    /// Some hosts of the network, other ones at each turn; an address that nobody has if none is known.
    fn hosts(&self, turn: usize, count: usize) -> Vec<IpAddr> {
        let known: Vec<&IpAddr> =
            self.neighbours.iter().filter(|ip| self.net.contains(*ip)).collect();
        match known.is_empty() {
            true => free_address(&self.net, turn, &self.own).into_iter().collect(),
            false => rotated(&known, turn.wrapping_mul(count)).take(count).map(|ip| **ip).collect(),
        }
    }

    fn neighbours_in_net(&self) -> usize {
        self.neighbours.iter().filter(|ip| self.net.contains(*ip)).count()
    }
}

fn rotated<T>(items: &[T], by: usize) -> impl Iterator<Item = &T> {
    let by = if items.is_empty() { 0 } else { by % items.len() };
    items[by..].iter().chain(&items[..by])
}

/// An address of a network that is neither one of `taken` nor the network's first or last.
pub(super) fn free_address(net: &IpNet, seed: usize, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    (0..16).find_map(|attempt| {
        let mixed = (seed as u64).wrapping_add(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let ip = match net {
            IpNet::V4(net) => {
                let hosts = 1_u64 << (32 - net.prefix_len());
                let offset = if hosts > 2 { 1 + mixed % (hosts - 2) } else { mixed % hosts };
                IpAddr::V4(Ipv4Addr::from(u32::from(net.network()).wrapping_add(offset as u32)))
            }
            IpNet::V6(net) => {
                let bits = u32::from(128 - net.prefix_len());
                let hosts = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
                // The first one of a subnet belongs to its routers (RFC 4291 §2.6.1).
                let offset = if hosts > 2 { 1 + mixed % (hosts - 1) } else { mixed % hosts };
                IpAddr::V6(Ipv6Addr::from(u128::from(net.network()).wrapping_add(offset.into())))
            }
        };
        (!taken.contains(&ip)).then_some(ip)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn lan(network: &str, neighbours: &[&str]) -> Lan {
        Lan {
            device: 3,
            name: "lan0".to_owned(),
            net: net(network),
            neighbours: neighbours.iter().map(|text| ip(text)).collect(),
            own: BTreeSet::from([ip("10.1.0.1")]),
        }
    }

    #[test]
    fn only_what_is_of_the_site_and_of_a_subnet_of_the_host_is_connected() {
        let address = |device, text: &str| {
            let net = net(text);
            HostAddress { device, ip: net.addr(), net: net.trunc() }
        };
        let addresses = [
            address(1, "10.1.0.1/24"),
            address(2, "192.168.0.5/16"),
            address(3, "203.0.113.7/24"),
            address(9, "10.1.9.1/24"),
        ];
        let own = [net("10.1.0.0/16"), net("192.168.3.0/24")];
        assert_eq!(
            connected(&own, &addresses, |device| device == 9),
            BTreeSet::from([(1, net("10.1.0.0/24")), (2, net("192.168.3.0/24"))])
        );
    }

    #[test]
    fn hosts_that_are_known_are_tried_by_turns_in_both_directions() {
        let names: Vec<String> = (2..40).map(|host| format!("10.1.0.{host}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let lans = [lan("10.1.0.0/24", &names)];
        let foreign = [net("10.2.0.0/16"), net("10.3.0.0/16"), net("fd00::/64")];
        let mut tried = BTreeSet::new();
        let mut remotes = BTreeSet::new();
        for turn in 0..3 {
            let probes = round(&lans, &foreign, &BTreeSet::new(), turn, &[]);
            assert_eq!(probes.iter().filter(|probe| probe.path == Path::Out).count(), SOURCES);
            for probe in probes.iter().filter(|probe| probe.path == Path::In) {
                tried.insert(probe.to);
                remotes.extend(foreign.iter().position(|net| net.contains(&probe.from)));
            }
        }
        assert_eq!((tried.len(), remotes.len()), (38, 2));
    }

    #[test]
    fn without_a_known_host_an_address_is_tried_that_is_not_the_hosts_own() {
        let lans = [lan("10.1.0.0/30", &[])];
        for turn in 0..20 {
            for probe in round(&lans, &[net("10.2.0.0/16")], &BTreeSet::new(), turn, &[]) {
                let here = if probe.path == Path::In { probe.to } else { probe.from };
                assert_eq!(here, ip("10.1.0.2"));
            }
        }
        assert_eq!(free_address(&net("10.1.0.1/32"), 1, &lans[0].own), None);
        assert!(free_address(&net("fd00::/64"), 1, &BTreeSet::new()).is_some());
        assert!(free_address(&net("::/0"), 1, &BTreeSet::new()).is_some());
        assert!(free_address(&net("0.0.0.0/0"), 1, &BTreeSet::new()).is_some());
    }

    #[test]
    fn each_kind_is_tried_in_both_directions_at_a_device() {
        let lans = [lan("10.1.0.0/24", &["10.1.0.7", "10.1.0.8"])];
        let kinds = [Kind::TcpSyn, Kind::Echo, Kind::Large];
        let probes = round(&lans, &[net("10.2.0.0/16")], &BTreeSet::new(), 3, &kinds);
        for path in [Path::Out, Path::In] {
            for kind in kinds {
                let of = |probe: &&Probe| probe.path == path && probe.kind == kind;
                assert_eq!(probes.iter().filter(of).count(), 1);
            }
        }
    }

    #[test]
    fn a_suspect_is_tried_until_its_host_is_gone() {
        let foreign = [net("10.2.0.0/16")];
        let suspect = Probe {
            path: Path::In,
            device: 3,
            from: ip("10.2.0.9"),
            to: ip("10.1.0.7"),
            kind: Kind::TcpSyn,
        };
        let suspects = BTreeSet::from([suspect]);
        let there =
            round(&[lan("10.1.0.0/24", &["10.1.0.7", "10.1.0.8"])], &foreign, &suspects, 5, &[]);
        assert!(there.contains(&suspect));
        let gone = round(&[lan("10.1.0.0/24", &["10.1.0.8"])], &foreign, &suspects, 5, &[]);
        assert!(!gone.contains(&suspect));
        assert!(!round(&[], &foreign, &suspects, 5, &[]).contains(&suspect));
    }
}
