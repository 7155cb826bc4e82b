//! What of this site the host reaches, and by which devices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{
    Site,
    plan::{self, Lan},
};
use crate::host::netlink::{HostAddress, Kernel, NetlinkError, Passage};

/// Hosts of one device that are looked at.
const MAX_NEIGHBOURS: usize = 1024;
/// Devices whose neighbours are read in a round.
const MAX_DEVICES: usize = 32;
/// Prefixes of the site that are looked up in a round, by turns.
const MAX_LOOKUPS: usize = 16;

/// Addresses that only a default route leads to: they are for documentation (RFC 5737, RFC 3849).
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The names of devices, read when an unknown one appears.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: BTreeMap<u32, String>,
    loopback: BTreeSet<u32>,
}

impl Names {
    pub(super) async fn refresh(&mut self, kernel: &Kernel) -> Result<(), NetlinkError> {
        let devices = kernel.devices().await?;
        self.loopback = devices.iter().filter(|d| d.loopback).map(|d| d.index).collect();
        self.names = devices.into_iter().map(|device| (device.index, device.name)).collect();
        Ok(())
    }

    pub(super) fn name(&self, device: u32) -> String {
        self.names.get(&device).cloned().unwrap_or_else(|| format!("device {device}"))
    }

    fn knows(&self, device: u32) -> bool {
        self.names.contains_key(&device)
    }
}

/// The parts of the site that can be measured.
pub(super) async fn lans(
    kernel: &Kernel,
    site: &Site,
    names: &mut Names,
    turn: usize,
) -> Result<Vec<Lan>, NetlinkError> {
    let addresses = kernel.host_addresses().await?;
    if turn % 16 == 1 || addresses.iter().any(|address| !names.knows(address.device)) {
        names.refresh(kernel).await?;
    }
    let own: BTreeSet<IpAddr> = addresses.iter().map(|address| address.ip).collect();
    let skip = |device| Some(device) == site.tun || names.loopback.contains(&device);
    let connected = plan::connected(&site.own, &addresses, skip);
    let mut neighbours: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    let devices: BTreeSet<u32> = connected.iter().map(|(device, _)| *device).collect();
    for device in devices.into_iter().take(MAX_DEVICES) {
        let mut found = kernel.neighbours(device, MAX_NEIGHBOURS).await?;
        found.retain(|ip| !own.contains(ip));
        neighbours.insert(device, found);
    }
    let lan = |device, net: IpNet, neighbours: &[IpAddr]| Lan {
        device,
        name: names.name(device),
        net,
        neighbours: neighbours.iter().filter(|ip| net.contains(*ip)).copied().collect(),
        own: own.clone(),
    };
    let mut lans: Vec<Lan> = connected
        .iter()
        .map(|(device, net)| lan(*device, *net, neighbours.get(device).map_or(&[], Vec::as_slice)))
        .collect();
    for (device, host) in routed(kernel, site, &addresses, &connected, turn).await? {
        if !skip(device) {
            lans.push(lan(device, IpNet::from(host), &[]));
        }
    }
    Ok(lans)
}

/// An address in each prefix of the site that is behind a router, with the device toward it. What only
/// the default route leads to is the site's only where the uplink itself is in the prefix.
async fn routed(
    kernel: &Kernel,
    site: &Site,
    addresses: &[HostAddress],
    connected: &BTreeSet<(u32, IpNet)>,
    turn: usize,
) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
    let is_connected = |ip: &IpAddr| connected.iter().any(|(_, net)| net.contains(ip));
    let count = site.own.len().max(1);
    let mut found = Vec::new();
    let mut default = [None; 2];
    for prefix in site.own.iter().cycle().skip(turn % count).take(count.min(MAX_LOOKUPS)) {
        if connected.iter().any(|(_, net)| net.contains(prefix)) {
            continue;
        }
        let host = plan::free_address(prefix, turn, &BTreeSet::new());
        let Some(host) = host.filter(|host| !is_connected(host)) else { continue };
        let Passage::Device { index, gateway } = kernel.passage(host, None).await? else {
            continue;
        };
        let family = usize::from(host.is_ipv6());
        let by_default = match default[family] {
            Some(way) => way,
            None => *default[family].insert(kernel.passage(ELSEWHERE[family], None).await?),
        };
        let uplink_is_inside =
            addresses.iter().any(|address| address.device == index && prefix.contains(&address.ip));
        if (Passage::Device { index, gateway }) != by_default || uplink_is_inside {
            found.push((index, host));
        }
    }
    Ok(found)
}
