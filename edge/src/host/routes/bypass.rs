//! Whether packets of the site for the mesh go into the tunnel: the kernel is asked for the way of a
//! forwarded packet, for every prefix after a change of rules, and for a few prefixes at a time otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use tokio::time::Instant;

use super::facts::Bypassed;
use crate::host::{
    netlink::{Kernel, NetlinkError, RULE_PRIORITY},
    networks::Networks,
    reconcile::{Intent, inside},
    rules::{Action, Packet, Rule, UDP, before, examples},
};

/// Prefixes that are checked at a time, during a pass over all of them and otherwise.
const PASS_STEP: usize = 64;
const SAMPLE_STEP: usize = 4;
const PASS_INTERVAL: Duration = Duration::from_millis(20);
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// A pass that took a second is not started again for this many seconds.
const REST: u32 = 20;
/// Ordinary packets, by device, and packets that a rule selects.
const MAX_PACKETS: usize = 16;
/// Routes of a rule's table that are looked at, for parts of prefixes.
const MAX_NETS: usize = 1000;
/// Rules that select packets by a mark.
const MAX_MARKED: usize = 8;
/// Bypassed prefixes that are remembered.
const MAX_FOUND: usize = 64;

#[derive(Debug)]
pub(super) struct Bypass {
    pub(super) rules: Vec<Rule>,
    packets: [Vec<Packet>; 2],
    /// Destinations of rules and of their tables, which can be parts of prefixes.
    parts: BTreeSet<IpNet>,
    found: BTreeMap<IpNet, Bypassed>,
    /// What packets would do that had the mark of a rule, which another program can set.
    marked: Vec<Bypassed>,
    /// The last prefix that was checked.
    last: Option<IpNet>,
    pass: Option<Pass>,
    /// A pass is wanted, once it may start.
    wanted: bool,
    may_start: Instant,
    due: Instant,
}

#[derive(Debug)]
struct Pass {
    left: usize,
    busy: Duration,
}

/// What a check needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) intent: &'a Intent,
    pub(super) networks: &'a Networks,
    /// The TUN device.
    pub(super) tun: u32,
}

impl Bypass {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            rules: Vec::new(),
            packets: [Vec::new(), Vec::new()],
            parts: BTreeSet::new(),
            found: BTreeMap::new(),
            marked: Vec::new(),
            last: None,
            pass: None,
            wanted: false,
            may_start: now,
            due: now,
        }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// There is nothing to check now.
    pub(super) fn postpone(&mut self) {
        self.due = Instant::now() + SAMPLE_INTERVAL;
    }

    pub(super) fn found(&self) -> impl Iterator<Item = &Bypassed> {
        self.found.values()
    }

    pub(super) fn marked(&self) -> &[Bypassed] {
        &self.marked
    }

    /// The tables that rules before the edge's own look up.
    pub(super) fn tables(&self) -> BTreeSet<u32> {
        let table = |rule: &Rule| match rule.action {
            Action::Table(table) => Some(table),
            Action::Goto(_) | Action::Refuse(_) | Action::Nothing => None,
        };
        before(&self.rules, RULE_PRIORITY).filter_map(table).collect()
    }

    /// Rules or their tables have changed: checks what is bypassed at once, and all prefixes soon.
    pub(super) async fn restart(&mut self, host: Host<'_>) -> Result<(), NetlinkError> {
        self.rules = host.kernel.rules().await?;
        self.parts = before(&self.rules, RULE_PRIORITY).filter_map(|rule| rule.to).collect();
        for table in self.tables() {
            // The main table's networks are known, and local ones among them take precedence.
            if table != 254 {
                self.parts.extend(host.kernel.nets(table, MAX_NETS).await?);
            }
        }
        self.choose_packets(host);
        self.find_marked(host).await?;
        self.recheck(host).await?;
        self.wanted = true;
        self.start_pass(host.intent);
        Ok(())
    }

    /// The site's networks or the mesh's prefixes have changed.
    pub(super) fn choose_packets(&mut self, host: Host<'_>) {
        let own = host.intent.own();
        for v6 in [false, true] {
            let mut packets = Vec::new();
            let lan = host.networks.lan(own);
            for (device, net) in lan.iter().filter(|(_, net)| net.addr().is_ipv6() == v6) {
                let Some(name) = host.networks.name(*device) else { continue };
                let free = |ip: &IpAddr| !host.networks.has_address(*ip);
                let from = examples(*net).find(free);
                let iif = Some((name.to_owned(), *device));
                if packets.len() < MAX_PACKETS / 2 && from.is_some() {
                    packets.push(Packet { from, iif, ..ordinary() });
                }
            }
            let from = host.intent.source(v6);
            packets.extend(from.map(|from| Packet { from: Some(from), ..ordinary() }));
            let ordinary = packets.clone();
            let rules = before(&self.rules, RULE_PRIORITY).filter(|rule| rule.v6 == v6);
            for rule in rules.filter(|rule| !rule.selects_any_mark()) {
                let by_rule = ordinary.iter().filter_map(|packet| {
                    let matching = rule.example(packet, own.iter().copied())?;
                    let iif = matching.iif.as_ref().map(|(name, _)| name);
                    (rule.iif.is_none() || rule.iif.as_ref() == iif).then_some(matching)
                });
                let new: Vec<Packet> = by_rule.filter(|new| !packets.contains(new)).collect();
                packets.extend(new);
                packets.truncate(MAX_PACKETS);
            }
            self.packets[usize::from(v6)] = packets;
        }
    }

    async fn find_marked(&mut self, host: Host<'_>) -> Result<(), NetlinkError> {
        let mut found = Vec::new();
        let marking = before(&self.rules, RULE_PRIORITY).filter(|rule| rule.selects_any_mark());
        for rule in marking.take(MAX_MARKED) {
            let foreign = host.intent.foreign().iter();
            let prefix = foreign.copied().find(|net| net.addr().is_ipv6() == rule.v6);
            let own = host.intent.own().iter().copied();
            let packet = self.packets[usize::from(rule.v6)].first();
            let (Some(prefix), Some(packet)) = (prefix, packet) else { continue };
            let Some(packet) = rule.example(packet, own) else { continue };
            found.extend(self.find(host, prefix, &[packet]).await?);
        }
        self.marked = found;
        Ok(())
    }

    /// Checks the next few prefixes.
    pub(super) async fn step(&mut self, host: Host<'_>) -> Result<(), NetlinkError> {
        let started = Instant::now();
        self.start_pass(host.intent);
        let limit = match &self.pass {
            Some(pass) => pass.left.min(PASS_STEP),
            None => SAMPLE_STEP,
        };
        let foreign = host.intent.foreign();
        let from = self.last.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut some: Vec<IpNet> =
            foreign.range((from, std::ops::Bound::Unbounded)).take(limit).copied().collect();
        if some.len() < limit {
            some.extend(foreign.iter().take(limit - some.len()));
        }
        self.last = some.last().copied();
        for prefix in &some {
            self.check(host, *prefix).await?;
        }
        if self.pass.is_none() {
            self.recheck(host).await?;
        }
        let now = Instant::now();
        if let Some(pass) = &mut self.pass {
            pass.left = pass.left.saturating_sub(limit);
            pass.busy += now - started;
            if pass.left == 0 {
                self.may_start = now + pass.busy * REST;
                self.pass = None;
            }
        }
        self.due = now + if self.pass.is_some() { PASS_INTERVAL } else { SAMPLE_INTERVAL };
        Ok(())
    }

    fn start_pass(&mut self, intent: &Intent) {
        let now = Instant::now();
        if self.wanted && self.pass.is_none() && self.may_start <= now {
            self.wanted = false;
            self.pass = Some(Pass { left: intent.foreign().len(), busy: Duration::ZERO });
            self.due = now;
        }
    }

    /// Checks again what is bypassed.
    async fn recheck(&mut self, host: Host<'_>) -> Result<(), NetlinkError> {
        let found: Vec<IpNet> = self.found.keys().copied().collect();
        for prefix in found {
            self.check(host, prefix).await?;
        }
        Ok(())
    }

    async fn check(&mut self, host: Host<'_>, prefix: IpNet) -> Result<(), NetlinkError> {
        let bypassed = match host.intent.foreign().contains(&prefix) {
            true => {
                let packets = &self.packets[usize::from(prefix.addr().is_ipv6())];
                self.find(host, prefix, packets).await?
            }
            false => None,
        };
        match bypassed {
            Some(bypassed) if self.found.len() < MAX_FOUND => {
                self.found.insert(prefix, bypassed);
            }
            Some(_) => {}
            None => drop(self.found.remove(&prefix)),
        }
        Ok(())
    }

    async fn find(
        &self,
        host: Host<'_>,
        prefix: IpNet,
        packets: &[Packet],
    ) -> Result<Option<Bypassed>, NetlinkError> {
        let parts = inside(&self.parts, prefix).take(4).copied();
        for net in std::iter::once(prefix).chain(parts) {
            let Some(to) = examples(net).find(|to| host.intent.is_tunnelled(*to)) else { continue };
            for packet in packets {
                let way = host.kernel.way(to, packet).await?;
                let refused = if way.is_none() { self.refusing(packet, to) } else { None };
                let elsewhere = way.filter(|way| way.device != host.tun);
                if refused.is_none() && elsewhere.is_none() {
                    continue;
                }
                let table = elsewhere.map_or(0, |way| way.table);
                let rule = refused.or_else(|| self.leading_to(table, packet, to));
                return Ok(Some(Bypassed {
                    prefix,
                    to,
                    from: packet.from,
                    iif: packet.iif.as_ref().map(|(name, _)| name.clone()),
                    device: elsewhere
                        .map(|way| host.networks.name(way.device).unwrap_or("?").to_owned()),
                    table,
                    rule: rule.map(|rule| (rule.clone(), self.free_priority())),
                }));
            }
        }
        Ok(None)
    }

    /// The rule that refuses the packet, or leads to a table that does.
    fn refusing(&self, packet: &Packet, to: IpAddr) -> Option<&Rule> {
        let selecting =
            || before(&self.rules, RULE_PRIORITY).filter(move |rule| rule.matches(packet, to));
        let refuses = |rule: &&Rule| matches!(rule.action, Action::Refuse(_));
        let leads =
            |rule: &&Rule| matches!(rule.action, Action::Table(_)) && rule.suppressed_len.is_none();
        selecting().find(refuses).or_else(|| selecting().find(leads))
    }

    fn leading_to(&self, table: u32, packet: &Packet, to: IpAddr) -> Option<&Rule> {
        before(&self.rules, RULE_PRIORITY).find(|rule| {
            let leads = match rule.action {
                Action::Table(found) => found == table,
                // To a rule behind the edge's own.
                Action::Goto(priority) => priority > RULE_PRIORITY,
                Action::Refuse(_) | Action::Nothing => false,
            };
            (leads || rule.l3mdev) && rule.matches(packet, to)
        })
    }

    fn free_priority(&self) -> u32 {
        let taken: BTreeSet<u32> = self.rules.iter().map(|rule| rule.priority).collect();
        (6000..32_000).find(|priority| !taken.contains(priority)).unwrap_or(6000)
    }
}

fn ordinary() -> Packet {
    Packet { protocol: Some(UDP), ..Packet::default() }
}
