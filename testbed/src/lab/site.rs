use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::internet::{any_of_family, nodad, nth};
use super::{Lab, Nat, Uplink, nat};
use crate::host::{Addresses, Host};

#[derive(Debug)]
pub struct SiteBuilder<'a> {
    lab: &'a mut Lab,
    name: String,
    public: Vec<String>,
    inner: Vec<String>,
    nat: Option<Nat>,
}

impl<'a> SiteBuilder<'a> {
    pub(super) fn new(lab: &'a mut Lab, name: &str) -> Self {
        Self { lab, name: name.to_owned(), public: Vec::new(), inner: Vec::new(), nat: None }
    }

    /// Adds a public address with its subnet, such as `203.0.113.7/24` or `2001:db8:a::7/64`; one
    /// per address family at most. No other link of the lab may use the subnet. Its first address
    /// is the router's.
    #[must_use]
    pub fn public(mut self, address: &str) -> Self {
        self.public.push(address.to_owned());
        self
    }

    /// Adds a network behind the edge, such as `172.30.0.0/16` or `fd00:60::/64`. The edge gets
    /// `.1` (`::1`), the workload `.10` (`::10`) and a default route to the edge.
    #[must_use]
    pub fn inner(mut self, network: &str) -> Self {
        self.inner.push(network.to_owned());
        self
    }

    /// Puts a NAT between the edge and the internet; it gets the public addresses.
    #[must_use]
    pub fn nat(mut self, nat: Nat) -> Self {
        self.nat = Some(nat);
        self
    }

    pub fn build(self) -> Result<Site> {
        let Self { lab, name, public, inner, nat } = self;
        ensure!(!inner.is_empty(), "site {name} has no inner network: call inner()");
        let [edge, workload] =
            lab.create_hosts([format!("{name}-edge"), format!("{name}-host")])?;
        let (uplink, nat) = match nat {
            None => (lab.internet.attach(&name, edge.netns(), &public)?, None),
            Some(nat) => {
                let [middle] = lab.create_hosts([format!("{name}-nat")])?;
                let uplink = lab.internet.attach(&name, middle.netns(), &public)?;
                let number = lab.internet.link_count();
                nat.set_up(middle.netns(), edge.netns(), number, &uplink.addresses())?;
                (uplink.clone(), Some(middle.with_addresses(uplink.shared_addresses())))
            }
        };
        let networks = inner.iter().map(|text| network(text)).collect::<Result<Vec<_>>>()?;
        let (near, far) = connect(&edge, "eth1", &workload, &networks)
            .with_context(|| format!("connecting {} to {}", workload.name(), edge.name()))?;
        Ok(Site {
            name,
            edge: edge.with_addresses(near),
            workload: workload.with_addresses(far),
            nat,
            uplink,
            interfaces: Arc::new(AtomicU32::new(2)),
        })
    }
}

/// A site: its edge host, which has `eth0` to the internet and `eth1` to the inner networks and
/// doesn't forward by itself, and a workload host behind it. Clones are handles of the same site.
#[derive(Clone, Debug)]
pub struct Site {
    name: String,
    edge: Host,
    workload: Host,
    nat: Option<Host>,
    uplink: Uplink,
    interfaces: Arc<AtomicU32>,
}

impl Site {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn edge(&self) -> &Host {
        &self.edge
    }

    /// The host behind the edge. It runs no cframe program.
    pub fn workload(&self) -> &Host {
        &self.workload
    }

    pub fn nat(&self) -> Option<&Host> {
        self.nat.as_ref()
    }

    /// The link to the internet, of the edge or of the NAT.
    pub fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    /// Moves the edge of another site, which has no NAT, behind this site's NAT. Its private address is returned. There
    /// may be one such site.
    pub fn share_nat(&self, other: &Self) -> Result<IpAddr> {
        let nat = self.nat.as_ref().with_context(|| format!("{} has no NAT", self.name))?;
        nat::add_edge(nat.netns(), other.edge.netns())
            .with_context(|| format!("moving {} behind {}", other.name, nat.name()))
    }

    /// Deletes all entries of the connection table of the edge's host.
    pub fn forget_connections(&self) -> Result<()> {
        nat::flush_mappings(self.edge.netns()).with_context(|| format!("on {}", self.edge.name()))
    }

    /// Deletes all mappings of the NAT, as a restart does.
    pub fn forget_nat(&self) -> Result<()> {
        let host = self.nat.as_ref().with_context(|| format!("{} has no NAT", self.name))?;
        nat::flush_mappings(host.netns()).with_context(|| format!("on {}", host.name()))
    }
}

pub(super) fn add_network(lab: &Lab, site: &Site, prefix: &str) -> Result<Host> {
    let networks = [network(prefix)?];
    let number = site.interfaces.fetch_add(1, Ordering::Relaxed);
    let [host] = lab.create_hosts([format!("{}-net{number}", site.name)])?;
    let (_, far) = connect(&site.edge, &format!("eth{number}"), &host, &networks)
        .with_context(|| format!("connecting {prefix} to {}", site.edge.name()))?;
    Ok(host.with_addresses(far))
}

/// Connects `host` to `edge` and returns the edge's and the host's addresses in the networks.
fn connect(
    edge: &Host,
    interface: &str,
    host: &Host,
    networks: &[IpNet],
) -> Result<(Addresses, Addresses)> {
    let mut near =
        format!("link add {interface} type veth peer name eth0 netns {}\n", host.netns().name());
    near += &format!("link set {interface} up\n");
    let mut far = String::from("link set eth0 up\n");
    let (mut edges, mut hosts) = (Vec::new(), Vec::new());
    for network in networks {
        let (gateway, address) =
            (address_at(*network, 1)?, address_at(*network, workload_number(*network))?);
        near += &format!("addr add {gateway} dev {interface}{}\n", nodad(gateway));
        far += &format!("addr add {address} dev eth0{}\n", nodad(address));
        // Of two networks of one family, the first has the default route.
        if !hosts.iter().any(|known: &IpNet| known.addr().is_ipv4() == address.addr().is_ipv4()) {
            let any = any_of_family(*network);
            far += &format!("route add {any} via {} dev eth0\n", gateway.addr());
        }
        edges.push(gateway);
        hosts.push(address);
    }
    edge.ip(&near)?;
    host.ip(&far)?;
    Ok((Arc::new(Mutex::new(edges)), Arc::new(Mutex::new(hosts))))
}

fn network(text: &str) -> Result<IpNet> {
    let net: IpNet =
        text.parse().with_context(|| format!("{text:?} is not a network in CIDR notation"))?;
    ensure!(net.addr() == net.network(), "{net} has host bits set: {}", net.trunc());
    Ok(net)
}

fn address_at(network: IpNet, number: u32) -> Result<IpNet> {
    let address = nth(network, number);
    ensure!(network.contains(&address), "{network} is too small for {address}");
    Ok(IpNet::new(address, network.prefix_len())?)
}

/// `.10` and `::10` as written: decimal and hexadecimal.
fn workload_number(network: IpNet) -> u32 {
    if network.addr().is_ipv4() { 10 } else { 0x10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_has_ten_in_either_notation() {
        for (net, expected) in
            [("10.60.6.0/24", "10.60.6.10/24"), ("fd00:60::/64", "fd00:60::10/64")]
        {
            let net = network(net).unwrap();
            assert_eq!(address_at(net, workload_number(net)).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn networks_too_small_or_not_canonical_are_refused() {
        network("10.60.6.1/24").unwrap_err();
        address_at(network("10.0.0.0/29").unwrap(), 10).unwrap_err();
    }
}
