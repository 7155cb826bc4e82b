//! The router in the middle, and the links of hosts and sites to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::rules::{self, Conditions, PathMtu, Routes, Wire, Wires};
use crate::capture::Capture;
use crate::host::{Addresses, first_v4, first_v6};
use crate::netns::{FORWARDING, Netns};
use crate::process::Process;
use crate::wan::{self, Link, Links, Request, WanStatus};

#[derive(Debug)]
pub(super) struct Internet {
    router: Netns,
    dir: Arc<Path>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    wires: Wires,
    ends: BTreeMap<String, End>,
    routes: Routes,
    /// The links as last written for the WAN emulator.
    links: Links,
    /// The WAN emulator, if this process has started it.
    emulator: Option<Process>,
}

/// The host's side of a link.
#[derive(Clone, Debug)]
struct End {
    netns: Netns,
    addresses: Addresses,
    /// Whether segmentation offload is off, so that the host sends single packets.
    segmented: bool,
    rate_mbit: Option<u32>,
}

/// The first policy routing table for links. The preference of a table's rule is its number.
const FIRST_TABLE: u32 = 100;

/// Name of the uplink's interface on each host.
pub(super) const INTERFACE: &str = "eth0";

impl Internet {
    pub(super) fn new(router: Netns, dir: Arc<Path>) -> Result<Self> {
        router.sysctls(FORWARDING)?;
        Ok(Self { router, dir, state: Mutex::default() })
    }

    pub(super) fn router(&self) -> &Netns {
        &self.router
    }

    /// Connects `netns` to the router, with public `addresses`.
    pub(super) fn attach(
        self: &Arc<Self>,
        name: &str,
        netns: &Netns,
        addresses: &[String],
    ) -> Result<Uplink> {
        let addresses = public_addresses(addresses).with_context(|| format!("for {name}"))?;
        let mut state = self.state();
        check_name(name)?;
        ensure!(!state.wires.contains_key(name), "a host or site {name} exists already");
        state.check_subnets_are_free(name, &addresses)?;
        let table = FIRST_TABLE + u32::try_from(state.wires.len()).context("too many links")?;
        self.add_link(name, netns, &addresses, table)?;
        let shared = Addresses::new(Mutex::new(addresses.clone()));
        let prefixes = addresses.iter().map(IpNet::trunc).collect();
        let wire = Wire { table, prefixes, conditions: Conditions::default() };
        state.wires.insert(name.to_owned(), wire);
        let end =
            End { netns: netns.clone(), addresses: shared, segmented: false, rate_mbit: None };
        state.ends.insert(name.to_owned(), end);
        self.apply(&mut state)?;
        Ok(Uplink { name: name.to_owned(), internet: self.clone() })
    }

    fn add_link(&self, name: &str, netns: &Netns, addresses: &[IpNet], table: u32) -> Result<()> {
        self.router.ip(&format!(
            "link add name {name} type veth peer name {INTERFACE} netns {}\n\
             link set dev {name} up\n\
             rule add iif {name} lookup {table} pref {table}\n{}",
            netns.name(),
            lines(addresses, |net| gateway_line("add", *net, name)),
        ))?;
        self.router.ip6(&format!("rule add iif {name} lookup {table} pref {table}"))?;
        netns.ip(&format!("link set {INTERFACE} up\n{}", lines(addresses, |net| host_lines(*net))))
    }

    /// Changes the router's routes, its firewall and the hosts' offloads to match `state`.
    fn apply(&self, state: &mut State) -> Result<()> {
        let wanted = rules::routes(&state.wires);
        let changes = rules::difference(&state.routes, &wanted);
        if !changes.is_empty() {
            self.router.ip(&changes)?;
            state.routes = wanted;
        }
        self.router.nft(&rules::firewall(&state.wires))?;
        self.write_links(state)?;
        // The firewall drops skbs at random: with offloads on that would be super-packets of up to
        // 64 KiB.
        let segmented = state.wires.values().any(|wire| wire.conditions.loss_permille > 0);
        for end in state.ends.values_mut().filter(|end| end.segmented != segmented) {
            end.netns.set_offloads(INTERFACE, !segmented)?;
            end.segmented = segmented;
        }
        Ok(())
    }

    /// Writes the links and their addresses to a file for the WAN emulator, and notifies it if one
    /// runs.
    fn write_links(&self, state: &mut State) -> Result<()> {
        let links = state.links();
        if links != state.links {
            wan::write_links(&self.dir, &links)?;
            wan::send_request(&self.dir, &Request::Refresh)?;
            state.links = links;
        }
        Ok(())
    }

    /// Sends a request to the WAN emulator, which is started if none runs.
    pub(super) fn send_wan_request(&self, request: &Request) -> Result<Vec<WanStatus>> {
        // Locked throughout, so that only one emulator is started.
        let mut state = self.state();
        let (statuses, started) =
            wan::send_or_start(&self.dir, request, || Ok(self.router.clone()))?;
        if started.is_some() {
            state.emulator = started;
        }
        Ok(statuses)
    }

    pub(super) fn link_count(&self) -> usize {
        self.state().wires.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn links(&self) -> Links {
        let link = |(name, wire): (&String, &Wire)| {
            let end = self.ends.get(name).expect("a link has two ends");
            let addresses = end.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let gateways = addresses.iter().map(|net| gateway(*net)).collect();
            let link = Link { table: wire.table, prefixes: wire.prefixes.clone(), gateways };
            (name.clone(), link)
        };
        self.wires.iter().map(link).collect()
    }

    fn check_subnets_are_free(&self, name: &str, addresses: &[IpNet]) -> Result<()> {
        let others = self.wires.iter().filter(|(other, _)| *other != name);
        for (other, used) in
            others.flat_map(|(other, wire)| wire.prefixes.iter().map(move |p| (other, p)))
        {
            for new in addresses {
                ensure!(
                    !used.contains(&new.network()) && !new.contains(&used.network()),
                    "{new} of {name} overlaps {used} of {other}: each link needs its own subnet"
                );
            }
        }
        Ok(())
    }
}

/// A host's link to the internet. Its conditions can be changed while the lab runs, and apply to
/// both directions.
#[derive(Clone, Debug)]
pub struct Uplink {
    pub(super) name: String,
    pub(super) internet: Arc<Internet>,
}

impl Uplink {
    pub fn addresses(&self) -> Vec<IpNet> {
        self.shared_addresses().lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn v4(&self) -> Option<Ipv4Addr> {
        first_v4(&self.addresses())
    }

    pub fn v6(&self) -> Option<Ipv6Addr> {
        first_v6(&self.addresses())
    }

    /// Drops all packets, or stops dropping them.
    pub fn cut(&self, cut: bool) -> Result<()> {
        self.change_conditions(|conditions| conditions.cut = cut)
    }

    /// Drops all packets between two links, or stops dropping them.
    pub fn cut_from(&self, other: &Self, cut: bool) -> Result<()> {
        let mut state = self.internet.state();
        for (this, other) in [(self, other), (other, self)] {
            let far = &mut state.wire(&this.name).conditions.cut_from;
            if cut {
                far.insert(other.name.clone());
            } else {
                far.remove(&other.name);
            }
        }
        self.internet.apply(&mut state)
    }

    /// Drops all UDP packets, or stops dropping them.
    pub fn block_udp(&self, blocked: bool) -> Result<()> {
        self.change_conditions(|conditions| conditions.udp_blocked = blocked)
    }

    /// Drops packets at random, `percent` (0 to 100) in each direction. While any link is lossy,
    /// all uplinks of the lab send without segmentation offload, so that packets are dropped one by
    /// one. The WAN emulator merges the packets that it delivers, so use
    /// [`WanPath::loss`](crate::wan::WanPath::loss) where a path has conditions.
    pub fn set_loss(&self, percent: f64) -> Result<()> {
        ensure!((0.0..=100.0).contains(&percent), "a loss of {percent}% is not 0 to 100%");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        let permille = (percent * 10.0).round() as u16;
        self.change_conditions(|conditions| conditions.loss_permille = permille)
    }

    /// Limits the size of packets; `None` removes the limit.
    pub fn set_path_mtu(&self, mtu: impl Into<Option<PathMtu>>) -> Result<()> {
        let mtu = mtu.into();
        if let Some(bytes) = mtu.map(PathMtu::bytes) {
            ensure!((68..=1500).contains(&bytes), "a path MTU is 68 to 1500 bytes, not {bytes}");
        }
        self.change_conditions(|conditions| conditions.path_mtu = mtu)
    }

    /// Limits each direction to a rate in Mbit/s, with a queue of 50 ms; `None` removes the limit.
    pub fn limit_rate(&self, mbit: impl Into<Option<u32>>) -> Result<()> {
        let mbit = mbit.into();
        ensure!(mbit != Some(0), "a rate of 0 Mbit/s: use cut() to drop everything");
        let mut state = self.internet.state();
        let (router, name) = (self.internet.router(), &self.name);
        let end = state.ends.get_mut(name).expect("a link has two ends");
        // The queue for the host's packets is on an ifb of the router: one on the host's interface
        // would block its sockets.
        match (end.rate_mbit, mbit) {
            (None, Some(_)) => {
                router
                    .ip(&format!("link add name {name}-up type ifb\nlink set dev {name}-up up"))?;
                router.tc(&format!(
                    "qdisc add dev {name} ingress\n\
                     filter add dev {name} parent ffff: protocol all u32 match u32 0 0 \
                     action mirred egress redirect dev {name}-up\n"
                ))?;
            }
            (Some(_), None) => {
                router.tc(&format!("qdisc del dev {name} root\nqdisc del dev {name} ingress\n"))?;
                router.ip(&format!("link del dev {name}-up"))?;
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        if let Some(mbit) = mbit {
            let tbf = format!("tbf rate {mbit}mbit burst 32kb latency 50ms");
            router.tc(&format!(
                "qdisc replace dev {name} root {tbf}\nqdisc replace dev {name}-up root {tbf}\n"
            ))?;
        }
        end.rate_mbit = mbit;
        Ok(())
    }

    /// Replaces the link's address of the same family, as a provider does: the host, or the NAT in
    /// front of it, has only the new one afterwards. The subnet may change too.
    pub fn move_address(&self, address: &str) -> Result<()> {
        let new = public_address(address)?;
        let mut state = self.internet.state();
        state.check_subnets_are_free(&self.name, &[new])?;
        let end = state.ends.get(&self.name).expect("a link has two ends").clone();
        let mut addresses = end.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let old = addresses
            .iter_mut()
            .find(|old| old.addr().is_ipv4() == new.addr().is_ipv4())
            .with_context(|| format!("{} has no address of the family of {new}", self.name))?;
        if (gateway(*old), old.prefix_len()) != (gateway(new), new.prefix_len()) {
            // The kernel flushes all routes of an interface that loses its last address, so the new
            // one is added first.
            let (add, del) =
                (gateway_line("add", new, &self.name), gateway_line("del", *old, &self.name));
            self.internet.router().ip(&format!("{add}\n{del}"))?;
        }
        end.netns.ip(&format!("addr del {old} dev {INTERFACE}\n{}", host_lines(new)))?;
        *old = new;
        state.wire(&self.name).prefixes = addresses.iter().map(IpNet::trunc).collect();
        drop(addresses);
        self.internet.apply(&mut state)
    }

    /// Captures all packets on the link, in both directions.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(self.internet.router(), &self.internet.dir, &self.name)
    }

    pub(super) fn shared_addresses(&self) -> Addresses {
        let state = self.internet.state();
        state.ends.get(&self.name).expect("a link has two ends").addresses.clone()
    }

    fn change_conditions(&self, change: impl FnOnce(&mut Conditions)) -> Result<()> {
        let mut state = self.internet.state();
        change(&mut state.wire(&self.name).conditions);
        self.internet.apply(&mut state)
    }
}

impl State {
    fn wire(&mut self, name: &str) -> &mut Wire {
        self.wires.get_mut(name).expect("each uplink has a wire")
    }
}

fn lines(addresses: &[IpNet], line: impl Fn(&IpNet) -> String) -> String {
    addresses.iter().map(|net| line(net) + "\n").collect()
}

/// Adds or deletes the router's address in the subnet of a link, without a route: the routes come
/// from [`rules::routes`].
fn gateway_line(verb: &str, net: IpNet, interface: &str) -> String {
    let gateway = format!("addr {verb} {}/{} dev {interface}", gateway(net), net.prefix_len());
    match verb {
        "add" => format!("{gateway} noprefixroute{}", nodad(net)),
        _ => gateway,
    }
}

fn host_lines(net: IpNet) -> String {
    format!(
        "addr add {net} dev {INTERFACE}{}\nroute replace {} via {} dev {INTERFACE}",
        nodad(net),
        any_of_family(net),
        gateway(net)
    )
}

/// The destination of a default route of the network's family.
pub(super) fn any_of_family(net: IpNet) -> &'static str {
    if net.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" }
}

/// Skips IPv6 duplicate address detection, so that the address is usable at once.
pub(super) fn nodad(net: IpNet) -> &'static str {
    if net.addr().is_ipv4() { "" } else { " nodad" }
}

/// The router's address: the subnet's first, or the second if the host has the first.
fn gateway(net: IpNet) -> IpAddr {
    let first = nth(net, 1);
    if first == net.addr() { nth(net, 2) } else { first }
}

/// The `n`th address of a network, 0 being the network's own.
pub(super) fn nth(net: IpNet, n: u32) -> IpAddr {
    match net.network() {
        IpAddr::V4(start) => Ipv4Addr::from_bits(start.to_bits().wrapping_add(n)).into(),
        IpAddr::V6(start) => Ipv6Addr::from_bits(start.to_bits().wrapping_add(n.into())).into(),
    }
}

fn public_addresses(texts: &[String]) -> Result<Vec<IpNet>> {
    ensure!(!texts.is_empty(), "there is no public address: call public()");
    let addresses = texts.iter().map(|text| public_address(text)).collect::<Result<Vec<_>>>()?;
    let fours = addresses.iter().filter(|net| net.addr().is_ipv4()).count();
    ensure!(fours <= 1 && addresses.len() - fours <= 1, "more than one public address of a family");
    Ok(addresses)
}

fn public_address(text: &str) -> Result<IpNet> {
    let net: IpNet =
        text.parse().with_context(|| format!("{text:?} is not an address with a prefix length"))?;
    ensure!(net.addr() != net.network(), "{net} is a network, not an address in it");
    let room = net.max_prefix_len() - net.prefix_len();
    ensure!(room >= 2, "{net} leaves no room for the router's address");
    Ok(net)
}

/// Names of interfaces are a link's name and up to three more characters, and have at most 15 in
/// all (`IFNAMSIZ` of `linux/if.h`).
fn check_name(name: &str) -> Result<()> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let fits = !name.is_empty() && name.len() <= 12 && !name.starts_with('-');
    let reserved = ["lo", "all", "default"].contains(&name);
    ensure!(
        letters && fits && !reserved,
        "{name:?}: a name is up to 12 of a-z, 0-9 and -, and not lo, all or default"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_never_the_hosts_own_address() {
        for (address, expected) in [
            ("203.0.113.7/24", "203.0.113.1"),
            ("203.0.113.1/24", "203.0.113.2"),
            ("2001:db8:1::7/64", "2001:db8:1::1"),
        ] {
            assert_eq!(gateway(address.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn what_cannot_be_a_public_address_is_refused() {
        for address in ["203.0.113.7", "203.0.113.0/24", "203.0.113.7/31", "host"] {
            public_address(address).unwrap_err();
        }
        let twice = ["203.0.113.7/24".to_owned(), "198.51.100.7/24".to_owned()];
        public_addresses(&twice).unwrap_err();
    }

    #[test]
    fn names_that_are_no_interface_are_refused() {
        for name in ["", "lo", "Aws", "a b", "-a", "thirteen-long"] {
            check_name(name).unwrap_err();
        }
        check_name("aliyun-sz").unwrap();
    }
}
