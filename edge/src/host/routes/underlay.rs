//! How the edge's own packets leave the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::facts::Marked;
use crate::{
    host::{
        netlink::{Exit, Kernel, NetlinkError},
        networks::{Change, Networks, RouteKind},
        reconcile::Intent,
        rules::Rule,
    },
    instance::Mark,
};

/// Remotes whose paths are looked up: more would only repeat the same few paths.
const MAX_REMOTES: usize = 64;

/// Addresses that only a default route leads to: they are for documentation (RFC 5737, RFC 3849).
const DEFAULT_ROUTE_PROBES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

#[derive(Debug, Default)]
pub(super) struct Underlay {
    remotes: BTreeSet<IpAddr>,
    exits: BTreeMap<IpAddr, Option<Exit>>,
    pub(super) marked: Vec<Marked>,
}

impl Underlay {
    /// Sets the addresses whose paths make up the underlay. Returns whether they are others.
    pub(super) fn set_remotes(&mut self, remotes: BTreeSet<IpAddr>) -> bool {
        let remotes = remotes.into_iter().take(MAX_REMOTES).collect();
        let changed = self.remotes != remotes;
        self.remotes = remotes;
        changed
    }

    /// Whether a change can concern the way to a remote. An address that is added does not: the kernel's
    /// choice of a source stays.
    pub(super) fn is_concerned(&self, change: &Change, networks: &Networks) -> bool {
        let devices = || self.exits.values().flatten().map(|exit| exit.device);
        match change {
            Change::Route(route) | Change::NoRoute(route) => {
                let is_way = self.exits.keys().any(|remote| route.net.contains(remote));
                // A network of an address that was added is not on the way.
                is_way || route.net.prefix_len() == 0 && route.kind != RouteKind::Subnet
            }
            Change::NoAddress(gone) => {
                self.exits.values().flatten().any(|exit| exit.source == Some(gone.ip))
            }
            Change::Address(address) => self
                .exits
                .values()
                .any(|exit| exit.is_none_or(|exit| exit.source.is_none_or(|ip| ip == address.ip))),
            Change::Link(link) => {
                let was_up = networks.link(link.index).is_some_and(|before| before.up);
                was_up != link.up && (link.up || devices().any(|device| device == link.index))
            }
            Change::NoLink(index) => devices().any(|device| device == *index),
        }
    }

    /// Looks up all ways and returns whether one that is used is another than before.
    pub(super) async fn update(
        &mut self,
        kernel: &Kernel,
        mark: Mark,
    ) -> Result<bool, NetlinkError> {
        let mut exits = BTreeMap::new();
        for to in DEFAULT_ROUTE_PROBES.iter().chain(&self.remotes) {
            exits.insert(*to, kernel.exit(*to, mark.value).await?);
        }
        // Other remotes have other ways, which is no change.
        let changed =
            exits.iter().any(|(to, exit)| self.exits.get(to).is_some_and(|before| before != exit));
        self.exits = exits;
        Ok(changed)
    }

    /// Finds rules of other programs that select the edge's own packets by their mark.
    pub(super) async fn find_marked(
        &mut self,
        kernel: &Kernel,
        (rules, mark): (&[Rule], Mark),
        intent: &Intent,
        networks: &Networks,
    ) -> Result<(), NetlinkError> {
        self.marked.clear();
        let selecting: Vec<&Rule> = rules.iter().filter(|rule| rule.selects_mark(mark)).collect();
        if selecting.is_empty() {
            return Ok(());
        }
        let name = |exit: Exit| networks.name(exit.device).unwrap_or("?").to_owned();
        for (remote, exit) in &self.exits {
            let rule = selecting.iter().find(|rule| {
                let to = rule.to.is_none_or(|to| to.contains(remote));
                rule.v6 == remote.is_ipv6() && to
            });
            // An unmarked packet to an address inside a prefix enters the tunnel, which tells nothing.
            let (Some(rule), false) = (rule, intent.is_tunnelled(*remote)) else { continue };
            let unmarked = kernel.exit(*remote, 0).await?;
            if self.remotes.contains(remote) && unmarked != *exit {
                self.marked.push(Marked {
                    remote: *remote,
                    rule: (*rule).clone(),
                    device: exit.map(name),
                    unmarked_device: unmarked.map(name),
                });
            }
        }
        Ok(())
    }
}
