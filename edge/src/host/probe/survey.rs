//! What of this site the host reaches, and by which devices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{
    Site,
    facts::DeadDevice,
    plan::{self, Lan},
};
use crate::host::netlink::{Device, HostAddress, Kernel, NetlinkError, Passage};

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

/// The devices of the host.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: BTreeMap<u32, String>,
    loopback: BTreeSet<u32>,
    devices: Vec<Device>,
}

impl Names {
    pub(super) async fn refresh(&mut self, kernel: &Kernel) -> Result<(), NetlinkError> {
        let devices = kernel.devices().await?;
        self.loopback = devices.iter().filter(|d| d.loopback).map(|d| d.index).collect();
        self.names = devices.iter().map(|device| (device.index, device.name.clone())).collect();
        self.devices = devices;
        Ok(())
    }

    pub(super) fn name(&self, device: u32) -> String {
        self.names.get(&device).cloned().unwrap_or_else(|| format!("device {device}"))
    }

    /// Devices by which a part of the site cannot be reached: they are down, or their cable is out.
    pub(super) fn dead(&self, lans: &[Lan]) -> Vec<DeadDevice> {
        let find = |index: u32| self.devices.iter().find(|device| device.index == index);
        let has_carrier = |lan: &Lan| find(lan.device).is_none_or(|device| device.carrier);
        let dead: BTreeSet<u32> = lans
            .iter()
            // Another device may lead to the same network, such as one without a cable.
            .filter(|lan| !lans.iter().any(|other| other.net == lan.net && has_carrier(other)))
            .map(|lan| lan.device)
            .collect();
        dead.into_iter()
            .filter_map(find)
            .filter(|device| !self.is_empty_bridge(device))
            .map(|device| DeadDevice { name: device.name.clone(), is_down: !device.up })
            .collect()
    }

    /// A bridge for containers or virtual machines of which none runs.
    fn is_empty_bridge(&self, bridge: &Device) -> bool {
        let is_port = |port: &&Device| port.controller == Some(bridge.index);
        // Libvirt keeps a TAP that is down in its bridges.
        let is_used = |port: &Device| port.up || !port.is_tun;
        bridge.is_bridge && bridge.up && !self.devices.iter().filter(is_port).any(is_used)
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
    names.refresh(kernel).await?;
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

/// Prefixes of the site that are one address of the host itself.
pub(super) fn own_addresses(own: &[IpNet], addresses: &BTreeSet<IpAddr>) -> Vec<IpNet> {
    let is_own =
        |net: &&IpNet| net.prefix_len() == net.max_prefix_len() && addresses.contains(&net.addr());
    own.iter().filter(is_own).copied().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(devices: &[Device]) -> Names {
        Names { devices: devices.to_vec(), ..Names::default() }
    }

    fn device(index: u32, carrier: bool) -> Device {
        Device {
            index,
            name: format!("lan{index}"),
            up: true,
            loopback: false,
            is_tun: false,
            carrier,
            is_bridge: false,
            controller: None,
            alias: None,
        }
    }

    fn dead(devices: &[Device], lans: &[(u32, &str)]) -> Vec<(String, bool)> {
        let lan = |(device, net): &(u32, &str)| Lan {
            device: *device,
            name: String::new(),
            net: net.parse().unwrap(),
            neighbours: Vec::new(),
            own: BTreeSet::new(),
        };
        let lans: Vec<Lan> = lans.iter().map(lan).collect();
        names(devices).dead(&lans).into_iter().map(|dead| (dead.name, dead.is_down)).collect()
    }

    #[test]
    fn a_device_of_the_site_without_a_carrier_is_dead_unless_another_one_leads_to_the_same_network()
    {
        let devices = [device(1, true), device(2, false), Device { up: false, ..device(3, false) }];
        let nets = [(1, "10.1.0.0/24"), (2, "10.2.0.0/24"), (3, "10.3.0.0/24")];
        assert_eq!(dead(&devices, &nets), [("lan2".to_owned(), false), ("lan3".to_owned(), true)]);
        assert_eq!(dead(&devices, &[(1, "10.1.0.0/24"), (2, "10.1.0.0/24")]), []);
        // Its addresses are not the site's.
        assert_eq!(dead(&devices, &[]), []);
    }

    #[test]
    fn a_bridge_is_dead_when_its_ports_are_and_not_while_it_has_none() {
        let bridge = Device { is_bridge: true, ..device(1, false) };
        let port = Device { controller: Some(1), ..device(2, false) };
        let tap = Device { up: false, is_tun: true, ..port.clone() };
        let nets = [(1, "10.1.0.0/24")];
        assert_eq!(dead(&[bridge.clone(), port], &nets).len(), 1);
        assert_eq!(dead(&[bridge.clone(), tap], &nets), []);
        assert_eq!(dead(std::slice::from_ref(&bridge), &nets), []);
    }

    #[test]
    fn only_a_prefix_of_one_address_can_be_the_host_itself() {
        let own = ["10.5.0.1/32", "10.6.0.0/24", "10.7.0.1/32", "fd00::1/128"];
        let own = own.map(|net| net.parse().unwrap());
        let addresses = ["10.5.0.1", "10.6.0.1", "fd00::1"];
        let addresses = addresses.map(|ip| ip.parse().unwrap()).into();
        assert_eq!(own_addresses(&own, &addresses), [own[0], own[3]]);
    }
}
