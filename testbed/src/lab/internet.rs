use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::rules::{self, Conditions, PathMtu, Routes, Wire, Wires};
use crate::host::Addresses;
use crate::netns::FORWARDING;
use crate::wan::{self, Link, Links, Request, WanStatus};
use crate::{Capture, Netns, Process};

/// The router in the middle, and what hangs on it.
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
    /// What the WAN emulator was told of the links.
    links: Links,
    /// The emulator, if it was started from here.
    wan: Option<Process>,
}

/// The side of a link that isn't the router's.
#[derive(Clone, Debug)]
struct End {
    netns: Netns,
    addresses: Addresses,
    segmented: bool,
    mbit: Option<u32>,
}

/// The first policy routing table for links; the number is the preference of its rule too.
const FIRST_TABLE: u32 = 100;

/// The name of a link's interface on its host.
pub(super) const INTERFACE: &str = "eth0";

impl Internet {
    pub(super) fn new(router: Netns, dir: Arc<Path>) -> Result<Self> {
        router.sysctls(FORWARDING)?;
        Ok(Self { router, dir, state: Mutex::default() })
    }

    pub(super) fn router(&self) -> &Netns {
        &self.router
    }

    /// Links `netns` to the router with public `addresses`.
    pub(super) fn attach(
        self: &Arc<Self>,
        name: &str,
        netns: &Netns,
        addresses: &[String],
    ) -> Result<Uplink> {
        let addresses = public_addresses(addresses).with_context(|| format!("for {name}"))?;
        let mut state = self.state();
        check_name(name)?;
        ensure!(!state.wires.contains_key(name), "there is a {name} already");
        state.check_free(name, &addresses)?;
        let table = FIRST_TABLE + u32::try_from(state.wires.len()).context("too many links")?;
        self.plug_in(name, netns, &addresses, table)?;
        let shared = Addresses::new(Mutex::new(addresses.clone()));
        let prefixes = addresses.iter().map(IpNet::trunc).collect();
        let wire = Wire { table, prefixes, conditions: Conditions::default() };
        state.wires.insert(name.to_owned(), wire);
        let end = End { netns: netns.clone(), addresses: shared, segmented: false, mbit: None };
        state.ends.insert(name.to_owned(), end);
        self.apply(&mut state)?;
        Ok(Uplink { name: name.to_owned(), internet: self.clone() })
    }

    fn plug_in(&self, name: &str, netns: &Netns, addresses: &[IpNet], table: u32) -> Result<()> {
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

    /// Makes the kernel's state that of `state`.
    fn apply(&self, state: &mut State) -> Result<()> {
        let wanted = rules::routes(&state.wires);
        let changes = rules::difference(&state.routes, &wanted);
        if !changes.is_empty() {
            self.router.ip(&changes)?;
            state.routes = wanted;
        }
        self.router.nft(&rules::firewall(&state.wires))?;
        self.write_links(state)?;
        // Loss strikes what crosses the router as one: with offloads that would be a super-packet
        // of 64 KiB.
        let segmented = state.wires.values().any(|wire| wire.conditions.loss_permille > 0);
        for end in state.ends.values_mut().filter(|end| end.segmented != segmented) {
            end.netns.set_offloads(INTERFACE, !segmented)?;
            end.segmented = segmented;
        }
        Ok(())
    }

    /// Tells the WAN emulator, or one that is started later, of links and their addresses.
    fn write_links(&self, state: &mut State) -> Result<()> {
        let links = state.links();
        if links != state.links {
            wan::write_links(&self.dir, &links)?;
            wan::ask(&self.dir, &Request::Refresh)?;
            state.links = links;
        }
        Ok(())
    }

    /// Asks the WAN emulator, which is started if need be.
    pub(super) fn wan(&self, request: &Request) -> Result<Vec<WanStatus>> {
        // Held throughout, so that only one is started.
        let mut state = self.state();
        if let Some(answer) = wan::ask(&self.dir, request)? {
            return Ok(answer);
        }
        state.wan = Some(wan::start(&self.dir, &self.router, self.router.outlives_us())?);
        wan::ask(&self.dir, request)?.context("the WAN emulator ended: see log/wan.log")
    }

    /// How many links there are.
    pub(super) fn links(&self) -> usize {
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

    fn check_free(&self, name: &str, addresses: &[IpNet]) -> Result<()> {
        for (other, wire) in self.wires.iter().filter(|(other, _)| *other != name) {
            for (theirs, ours) in
                wire.prefixes.iter().flat_map(|t| addresses.iter().map(move |o| (t, o)))
            {
                let overlap = theirs.contains(&ours.network()) || ours.contains(&theirs.network());
                ensure!(
                    !overlap,
                    "{ours} of {name} overlaps {theirs} of {other}: each link needs a subnet of its own"
                );
            }
        }
        Ok(())
    }
}

/// A host's link to the internet, and what can be done to it while the lab runs. All of it holds in
/// both directions.
#[derive(Clone, Debug)]
pub struct Uplink {
    pub(super) name: String,
    pub(super) internet: Arc<Internet>,
}

impl Uplink {
    /// The public addresses.
    pub fn addresses(&self) -> Vec<IpNet> {
        self.shared_addresses().lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The public IPv4 address.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.addresses().iter().find_map(|net| match net.addr() {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(_) => None,
        })
    }

    /// The public IPv6 address.
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.addresses().iter().find_map(|net| match net.addr() {
            IpAddr::V4(_) => None,
            IpAddr::V6(addr) => Some(addr),
        })
    }

    /// Drops everything, or no longer.
    pub fn cut(&self, cut: bool) -> Result<()> {
        self.change(|conditions| conditions.cut = cut)
    }

    /// Drops everything between two links, or no longer.
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

    /// Drops all UDP, or no longer.
    pub fn block_udp(&self, blocked: bool) -> Result<()> {
        self.change(|conditions| conditions.udp_blocked = blocked)
    }

    /// Loses that many of a hundred packets at random, in either direction; 0 ends it. While any
    /// link is lossy, all of the lab's uplinks send without segmentation offload, so that packets
    /// are lost one by one.
    pub fn set_loss(&self, percent: f64) -> Result<()> {
        ensure!((0.0..=100.0).contains(&percent), "{percent} is no percentage");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        let permille = (percent * 10.0).round() as u16;
        self.change(|conditions| conditions.loss_permille = permille)
    }

    /// Limits the size of packets; `None` ends it.
    pub fn set_path_mtu(&self, mtu: impl Into<Option<PathMtu>>) -> Result<()> {
        let mtu = mtu.into();
        if let Some(bytes) = mtu.map(PathMtu::bytes) {
            ensure!((68..=1500).contains(&bytes), "a path MTU is 68 to 1500 bytes, not {bytes}");
        }
        self.change(|conditions| conditions.path_mtu = mtu)
    }

    /// Makes it a bottleneck of so many Mbit/s each way, with a queue of 50 ms; `None` ends it.
    pub fn limit_rate(&self, mbit: impl Into<Option<u32>>) -> Result<()> {
        let mbit = mbit.into();
        ensure!(mbit != Some(0), "a rate of 0 is not a rate: cut() drops everything");
        let mut state = self.internet.state();
        let (router, name) = (self.internet.router(), &self.name);
        let end = state.ends.get_mut(name).expect("a link has two ends");
        // Upwards the queue is on an ifb of the router: one on the host's interface would push back
        // into its sockets.
        match (end.mbit, mbit) {
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
        end.mbit = mbit;
        Ok(())
    }

    /// Gives the link another address in place of the one of the same family, as a provider does:
    /// the host, or the NAT in front of it, has the new one at once, and the old one is gone. The
    /// subnet may be another one too.
    pub fn move_address(&self, address: &str) -> Result<()> {
        let new = public_address(address)?;
        let mut state = self.internet.state();
        state.check_free(&self.name, &[new])?;
        let end = state.ends.get(&self.name).expect("a link has two ends").clone();
        let mut addresses = end.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let old = addresses
            .iter_mut()
            .find(|old| old.addr().is_ipv4() == new.addr().is_ipv4())
            .with_context(|| format!("{} has no address of the family of {new}", self.name))?;
        if (gateway(*old), old.prefix_len()) != (gateway(new), new.prefix_len()) {
            // The kernel flushes all routes of an interface whose last address goes: so the new one
            // first.
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

    /// Captures what passes the link.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(self.internet.router(), &self.internet.dir, &self.name)
    }

    pub(super) fn shared_addresses(&self) -> Addresses {
        let state = self.internet.state();
        state.ends.get(&self.name).expect("a link has two ends").addresses.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Conditions)) -> Result<()> {
        let mut state = self.internet.state();
        change(&mut state.wire(&self.name).conditions);
        self.internet.apply(&mut state)
    }
}

impl State {
    fn wire(&mut self, name: &str) -> &mut Wire {
        self.wires.get_mut(name).expect("an uplink is made with its wire")
    }
}

fn lines(addresses: &[IpNet], line: impl Fn(&IpNet) -> String) -> String {
    addresses.iter().map(|net| line(net) + "\n").collect()
}

/// The router's address in the subnet of a link. Routes are the lab's own: hence no route with the
/// address.
fn gateway_line(verb: &str, net: IpNet, interface: &str) -> String {
    let gateway = format!("addr {verb} {}/{} dev {interface}", gateway(net), net.prefix_len());
    match verb {
        "add" => format!("{gateway} noprefixroute{}", nodad(net)),
        _ => gateway,
    }
}

fn host_lines(net: IpNet) -> String {
    let default = if net.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    format!(
        "addr add {net} dev {INTERFACE}{}\nroute replace {default} via {} dev {INTERFACE}",
        nodad(net),
        gateway(net)
    )
}

/// What an address needs to be usable at once: no duplicate address detection.
pub(super) fn nodad(net: IpNet) -> &'static str {
    if net.addr().is_ipv4() { "" } else { " nodad" }
}

/// The subnet's first address, or the second where the host has the first.
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
    ensure!(!texts.is_empty(), "no public address: call public()");
    let addresses = texts.iter().map(|text| public_address(text)).collect::<Result<Vec<_>>>()?;
    let fours = addresses.iter().filter(|net| net.addr().is_ipv4()).count();
    ensure!(fours <= 1 && addresses.len() - fours <= 1, "more than one public address of a family");
    Ok(addresses)
}

fn public_address(text: &str) -> Result<IpNet> {
    let net: IpNet =
        text.parse().with_context(|| format!("{text:?} is not an address with a prefix length"))?;
    ensure!(net.addr() != net.network(), "{net} is a network: name the host's address in it");
    let room = net.max_prefix_len() - net.prefix_len();
    ensure!(room >= 2, "{net} leaves no room for the router's address");
    Ok(net)
}

/// The name becomes that of an interface, with up to three characters behind it: 15 in all
/// (`IFNAMSIZ` of `linux/if.h`).
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
