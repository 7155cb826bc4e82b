//! What `doctor` knows of the host.

use std::net::IpAddr;

use cframe_pki::unix_now;

use super::firewall::{self, ForwardPolicy};
use crate::{
    host::{
        netlink::{Device, Exit, Kernel},
        sysctl,
    },
    instance::{Instance, Paths},
    local, snapshot, state,
    status::Status,
    sys,
};

// fields: all that one run of `doctor` reads; every check needs a few of them.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The status of the running process.
    pub daemon: Option<Status>,
    /// … or why there is none.
    pub daemon_error: Option<String>,
    /// The certificate on disk.
    pub certificate: Option<Certificate>,
    /// … or why there is none.
    pub certificate_error: Option<String>,
    /// When the snapshot on disk was saved, in Unix seconds.
    pub snapshot_saved: Option<u64>,
    /// Why the snapshot cannot be used.
    pub snapshot_error: Option<String>,
    /// In Unix seconds.
    pub clock: u64,
    /// Whether the kernel considers the clock synchronised.
    pub synchronised: Option<bool>,
    /// `net.ipv4.ip_forward`.
    pub forward_v4: Option<i64>,
    /// `net.ipv6.conf.all.forwarding`.
    pub forward_v6: Option<i64>,
    /// Devices whose reverse path filter is strict.
    pub strict_filters: Vec<String>,
    pub forward_policy: Option<ForwardPolicy>,
    /// The device's zone, if firewalld runs; empty if the device is in none.
    pub firewalld_zone: Option<String>,
    pub captured: Vec<Captured>,
    /// The underlay's devices and their MTU in bytes.
    pub device_mtu: Vec<(String, i64)>,
}

/// Validity of the certificate on disk, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub not_before: u64,
    pub not_after: u64,
}

/// An endpoint inside another site's prefix: unmarked packets to it enter the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub address: IpAddr,
    /// Marked packets, which are those of links, bypass the tunnel.
    pub bypassed: bool,
    /// The device through which marked packets leave.
    pub device: Option<String>,
}

/// Reads everything. What cannot be read is left out.
pub async fn gather(instance: &Instance, paths: &Paths) -> Facts {
    let mut facts = Facts { clock: unix_now(), ..Facts::default() };
    match local::status(&paths.socket).await {
        Ok(status) => facts.daemon = Some(status),
        Err(error) => facts.daemon_error = Some(format!("{:#}", anyhow::Error::new(error))),
    }
    match state::load(&paths.data) {
        Ok((_, identity, _)) => {
            let (not_before, not_after) = (identity.not_before, identity.not_after);
            facts.certificate = Some(Certificate { not_before, not_after });
        }
        Err(error) => facts.certificate_error = Some(format!("{error:#}")),
    }
    match snapshot::load(&paths.data.join(snapshot::FILE)) {
        Ok(snapshot) => facts.snapshot_saved = snapshot.map(|snapshot| snapshot.saved),
        Err(error) => facts.snapshot_error = Some(format!("{:#}", anyhow::Error::new(error))),
    }
    facts.synchronised = sys::clock_is_synchronised().ok();
    facts.forward_v4 = sysctl::number("ipv4/ip_forward");
    facts.forward_v6 = sysctl::number("ipv6/conf/all/forwarding");
    facts.forward_policy = Some(firewall::forward_policy());
    if firewall::firewalld() {
        facts.firewalld_zone = Some(firewall::zone(instance.name()).unwrap_or_default());
    }
    if let Ok(kernel) = Kernel::open() {
        read_kernel(&mut facts, &kernel, instance).await;
    }
    facts
}

async fn read_kernel(facts: &mut Facts, kernel: &Kernel, instance: &Instance) {
    let devices = kernel.devices().await.unwrap_or_default();
    facts.strict_filters = strict_filters(&devices, instance);
    let tun =
        devices.iter().find(|device| device.name == instance.name()).map(|device| device.index);
    let Some(status) = &facts.daemon else { return };
    let remotes = status.links.iter().flat_map(|link| {
        let dialled = link.addresses.iter().map(|address| address.ip());
        dialled.chain(link.remote.map(|remote| remote.ip()))
    });
    let remotes: std::collections::BTreeSet<IpAddr> = remotes.collect();
    let name = |exit: Exit| {
        let device = devices.iter().find(|device| device.index == exit.device);
        device.map_or_else(|| exit.device.to_string(), |device| device.name.clone())
    };
    let mut used = std::collections::BTreeSet::new();
    for address in remotes {
        let marked = kernel.exit(address, instance.mark()).await.ok().flatten();
        let plain = kernel.exit(address, 0).await.ok().flatten();
        used.extend(marked.map(name));
        if tun.is_some() && plain.map(|exit| exit.device) == tun {
            facts.captured.push(Captured {
                address,
                bypassed: marked.is_some_and(|exit| Some(exit.device) != tun),
                device: marked.map(name),
            });
        }
    }
    facts.device_mtu = used
        .into_iter()
        .filter_map(|device| {
            let path = format!("/sys/class/net/{device}/mtu");
            let mtu = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
            Some((device, mtu))
        })
        .collect();
}

/// Devices whose reverse path filter is strict. The kernel uses the maximum of the device's own value
/// and that of `all`, where 1 is strict and 2 loose (linux Documentation/networking/ip-sysctl.rst).
fn strict_filters(devices: &[Device], instance: &Instance) -> Vec<String> {
    let filter = |name: &str| sysctl::number(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or(0);
    let all = filter("all");
    devices
        .iter()
        .filter(|device| !device.loopback && device.up && device.name != instance.name())
        .filter(|device| filter(&device.name).max(all) == 1)
        .map(|device| device.name.clone())
        .collect()
}
