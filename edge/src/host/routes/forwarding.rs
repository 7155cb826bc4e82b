//! Keeps the kernel's forwarding on, for the host and for each device between the site and the tunnel.

use std::{collections::BTreeSet, path::PathBuf};

use tokio::time::Instant;
use tracing::{info, warn};

use super::facts::ForwardingOff;
use crate::host::{
    backoff::Backoff,
    networks::Networks,
    reconcile::Intent,
    sysctl::{self, Saved},
};

#[derive(Debug)]
pub(super) struct ForwardingKeeper {
    /// Whether to switch it on.
    set: bool,
    saved: Saved,
    pub(super) backoff: Backoff,
    /// What was on: if it is off now, another program has switched it off.
    was_on: BTreeSet<String>,
    /// What is off now and waits.
    switched: BTreeSet<String>,
    pub(super) off: Vec<ForwardingOff>,
    pub(super) ignored: Vec<String>,
}

impl ForwardingKeeper {
    /// `data`: the directory in which the settings are saved that `down` puts back.
    pub(super) fn new(set: bool, data: PathBuf) -> Self {
        Self {
            set,
            saved: Saved::new(data),
            backoff: Backoff::new("the setting for forwarding"),
            was_on: BTreeSet::new(),
            switched: BTreeSet::new(),
            off: Vec::new(),
            ignored: Vec::new(),
        }
    }

    pub(super) fn set(&mut self, set: bool) {
        self.set = set;
    }

    /// Checks all settings that the prefixes need, and switches on what is off. What was on before waits
    /// for its time, if it is switched off again and again.
    pub(super) fn check(&mut self, intent: &Intent, networks: &Networks, tun: Option<u32>) {
        let now = Instant::now();
        let may = self.set && self.backoff.due().is_none_or(|due| due <= now);
        self.backoff.take(now);
        self.off.clear();
        self.ignored.clear();
        let (v4, v6) = needed(intent);
        if v4 {
            self.check_key("ipv4/ip_forward", None, may);
            for device in self.devices(intent, networks, tun) {
                let key = format!("ipv4/conf/{device}/forwarding");
                self.check_key(&key, Some(&device), may);
            }
        }
        if v6 {
            self.check_v6(networks, may);
        }
        // In IPv6, only the setting of the whole host decides whether packets are forwarded (`ip6_forward`).
    }

    fn check_v6(&mut self, networks: &Networks, may: bool) {
        let key = "ipv6/conf/all/forwarding";
        let advertised: Vec<&str> = networks
            .advertised_defaults()
            .iter()
            .filter_map(|index| networks.name(*index))
            .collect();
        for device in advertised {
            let accept = format!("ipv6/conf/{device}/accept_ra");
            if sysctl::number(&accept) != Some(1) {
                continue;
            }
            let raised = self.set
                && {
                    self.saved.save(key);
                    self.saved.save(&accept);
                    match sysctl::write(&accept, "2") {
                        Ok(()) => {
                            info!(key = %accept, "set to 2: the default route of this device is advertised, and \
                            a host that forwards would ignore it; `down` puts it back");
                            true
                        }
                        Err(error) => {
                            warn!(key = %accept, %error, "router advertisements may be ignored: set it to 2");
                            false
                        }
                    }
                };
            if !raised && sysctl::number(key) == Some(1) {
                self.ignored.push(device.to_owned());
            }
        }
        self.check_key(key, None, may);
    }

    fn check_key(&mut self, key: &str, device: Option<&str>, may: bool) {
        if sysctl::number(key) != Some(0) {
            // A kernel without the setting has no such family.
            self.was_on.insert(key.to_owned());
            return;
        }
        let mut off =
            ForwardingOff { device: device.map(str::to_owned), key: key.to_owned(), error: None };
        let was_on = self.was_on.contains(key);
        if !may {
            return self.off.push(off);
        }
        if was_on && !self.switched.contains(key) {
            // It is switched on when that is due: in a moment, or later if it is undone again and again.
            self.backoff.record(None, Instant::now());
            self.switched.insert(key.to_owned());
            return;
        }
        self.switched.remove(key);
        match sysctl::write(key, "1") {
            Ok(()) => {
                self.was_on.insert(key.to_owned());
                match was_on {
                    true if self.backoff.is_worth_a_line() => {
                        warn!(%key, "forwarding was switched off; switched on again");
                    }
                    true => {}
                    false => info!(%key, "forwarding switched on"),
                }
            }
            Err(error) => {
                off.error = Some(error.to_string());
                self.off.push(off);
            }
        }
    }

    /// The TUN and the devices behind which the site's IPv4 prefixes are.
    fn devices(&self, intent: &Intent, networks: &Networks, tun: Option<u32>) -> BTreeSet<String> {
        let lan = networks.lan(intent.own()).into_iter().filter(|(_, net)| net.addr().is_ipv4());
        let lan: BTreeSet<u32> = lan.map(|(device, _)| device).collect();
        // In a cloud's network, the site is behind the only device.
        let uplink = if lan.is_empty() { networks.default_device() } else { None };
        let all = tun.into_iter().chain(lan).chain(uplink);
        all.filter_map(|index| networks.name(index).map(str::to_owned)).collect()
    }
}

/// Whether packets of each family are to be forwarded.
fn needed(intent: &Intent) -> (bool, bool) {
    // The sets are sorted with IPv4 first.
    let nets = [intent.own(), intent.foreign()];
    let v4 = nets.iter().filter_map(|nets| nets.first()).any(|net| net.addr().is_ipv4());
    let v6 = nets.iter().filter_map(|nets| nets.last()).any(|net| net.addr().is_ipv6());
    (v4, v6)
}
