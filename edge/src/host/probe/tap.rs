//! A TAP device through which packets enter the host as if they had arrived by another device.
//!
//! Everything from the firewall's first hook on then works as for packets of the site: the kernel
//! redirects them (`act_mirred`) before it looks at them. The device goes with the process.

use std::{collections::BTreeSet, io, os::fd::OwnedFd};

use tun::{AbstractDevice as _, Configuration, Layer};

use crate::{
    host::{
        netlink::{Kernel, Redirecting},
        sysctl,
    },
    instance::Instance,
    sys,
};

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// A locally administered address whose last four bytes are the number of a device.
const SOURCE_START: [u8; 2] = [0x02, 0xcf];

#[derive(Debug)]
pub(super) struct Tap {
    fd: OwnedFd,
    index: u32,
    address: [u8; 6],
    /// Devices to which packets are redirected.
    targets: BTreeSet<u32>,
}

impl Tap {
    /// Makes the device.
    ///
    /// # Errors
    /// A text with what is missing, such as a part of the kernel.
    pub(super) async fn open(instance: &Instance, kernel: &Kernel) -> Result<Self, String> {
        let name = format!("cfp-{:04x}", instance.table() & 0xffff);
        let create = Self::create(&name);
        let mut tap = create.map_err(|error| format!("making the device {name}: {error}"))?;
        sysctl::silence_device(&name);
        let description = format!("cframe-edge {instance}: measures forwarding");
        kernel.describe_device(tap.index, &description).await.map_err(described)?;
        let address = kernel.hardware_address(tap.index).await.map_err(described)?;
        tap.address = address.try_into().map_err(|_| format!("{name} has no Ethernet address"))?;
        kernel.add_ingress(tap.index).await.map_err(described)?;
        Ok(tap)
    }

    fn create(name: &str) -> io::Result<Self> {
        let mut config = Configuration::default();
        config.tun_name(name).layer(Layer::L2).platform_config(|platform| {
            platform.ensure_root_privileges(false);
        });
        let device = tun::create(&config).map_err(io::Error::from)?;
        let index = device.tun_index().map_err(io::Error::from)?.unsigned_abs();
        let fd = sys::into_owned(device);
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, index, address: [0; 6], targets: BTreeSet::new() })
    }

    /// Whether the device is still as it was made. Another program may take it down, give it another address or
    /// remove its filters, and a filter ends with the device to which it leads.
    pub(super) async fn is_intact(&self, kernel: &Kernel) -> bool {
        match kernel.redirecting(self.index).await {
            Ok(found) => found.is_some_and(|found| self.matches(&found)),
            // Nothing is known.
            Err(_) => true,
        }
    }

    fn matches(&self, found: &Redirecting) -> bool {
        found.up && found.address == self.address && found.targets.is_superset(&self.targets)
    }

    /// Has the kernel redirect packets for this device from now on.
    ///
    /// # Errors
    /// A text with what is missing, such as a part of the kernel.
    pub(super) async fn add_target(&mut self, device: u32, kernel: &Kernel) -> Result<(), String> {
        if !self.targets.contains(&device) {
            kernel.redirect(self.index, device).await.map_err(described)?;
            self.targets.insert(device);
        }
        Ok(())
    }

    /// Sends an IP packet as if it arrived by `device`, one of the targets.
    pub(super) fn send(&self, device: u32, packet: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(14 + packet.len());
        // To the TAP's own address: for another one, the kernel would consider the packet not its own.
        frame.extend_from_slice(&self.address);
        frame.extend_from_slice(&SOURCE_START);
        frame.extend_from_slice(&device.to_be_bytes());
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        frame.extend_from_slice(if v6 { &IPV6 } else { &IPV4 });
        frame.extend_from_slice(packet);
        rustix::io::write(&self.fd, &frame)?;
        Ok(())
    }
}

/// An error with its cause, in one line.
fn described(error: crate::host::netlink::NetlinkError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_another_program_has_changed_is_noticed() {
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        let tap =
            Tap { fd, index: 7, address: [2, 0, 0, 0, 0, 1], targets: BTreeSet::from([3, 4]) };
        let whole = Redirecting {
            up: true,
            address: vec![2, 0, 0, 0, 0, 1],
            targets: BTreeSet::from([3, 4, 5]),
        };
        assert!(tap.matches(&whole));
        // The kernel shows 0 for a device that is gone.
        let targets = BTreeSet::from([0, 4]);
        for changed in [
            Redirecting { up: false, ..whole.clone() },
            Redirecting { address: vec![2, 0, 0, 0, 0, 9], ..whole.clone() },
            Redirecting { targets, ..whole.clone() },
            Redirecting { targets: BTreeSet::new(), ..whole },
        ] {
            assert!(!tap.matches(&changed), "{changed:?}");
        }
    }
}
