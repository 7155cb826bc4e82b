//! Notifications of the kernel, with what the route keeper needs of them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt as _;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage};
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::{sync::Notify, task::JoinSet};

use super::{NetlinkError, message, netconf, rules};
use crate::host::{culprit::Culprit, networks::Change, reconcile::RouteKey};

/// Changes that wait. More count as lost, and everything is read again.
const MAX_PENDING: usize = 16_384;

/// What has to be read or checked again: a set of flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Affected(u8);

impl Affected {
    /// The host's networks, because notifications were lost.
    pub(crate) const HOST: Self = Self(1);
    /// The edge's whole table.
    pub(crate) const TABLE: Self = Self(2);
    /// The edge's rules, removed or changed by another program.
    pub(crate) const OWN_RULES: Self = Self(4);
    /// Any rule.
    pub(crate) const RULES: Self = Self(8);
    /// A table that a rule before the edge's own looks up.
    pub(crate) const RULE_TABLES: Self = Self(16);
    /// Settings, such as forwarding.
    pub(crate) const SETTINGS: Self = Self(32);
    /// Everything, because notifications were lost.
    const ALL: Self = Self(63);

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What was notified and not handled yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) affected: Affected,
    /// Changes of the host's networks, in order.
    pub(crate) changes: Vec<Change>,
    /// Routes of the edge's table that another program has changed.
    pub(crate) keys: BTreeSet<RouteKey>,
    /// The last program that has changed the edge's rules or table.
    pub(crate) culprit: Option<Culprit>,
}

#[derive(Debug, Default)]
pub(crate) struct Notifications {
    pending: Mutex<Pending>,
    /// Tables whose changes are of interest.
    tables: Mutex<BTreeSet<u32>>,
    arrived: Notify,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.affected == Affected::default() && self.changes.is_empty() && self.keys.is_empty()
    }

    fn add(&mut self, affected: Affected) {
        self.affected.0 |= affected.0;
        if affected.has(Affected::HOST) {
            self.changes.clear();
        }
    }

    /// Adds what was notified later.
    pub(crate) fn append(&mut self, later: Self) {
        self.add(later.affected);
        self.changes.extend(later.changes);
        self.keys.extend(later.keys);
        self.culprit = later.culprit.or_else(|| self.culprit.take());
        self.limit();
    }

    fn limit(&mut self) {
        if self.changes.len() > MAX_PENDING {
            self.add(Affected::HOST);
        }
        if self.keys.len() > MAX_PENDING {
            self.keys.clear();
            self.add(Affected::TABLE);
        }
    }
}

impl Notifications {
    /// Waits for notifications and takes all of them. Cancel-safe.
    pub(crate) async fn next(&self) -> Pending {
        loop {
            let pending = std::mem::take(&mut *self.lock());
            if !pending.is_empty() {
                return pending;
            }
            self.arrived.notified().await;
        }
    }

    /// Sets the tables whose changes are notified as [`Affected::RULE_TABLES`].
    pub(crate) fn set_tables(&self, tables: BTreeSet<u32>) {
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = tables;
    }

    pub(super) fn add(&self, affected: Affected) {
        self.lock().add(affected);
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, message: &NetlinkMessage<RouteNetlinkMessage>, table: u32, own: [u32; 2]) {
        use RouteNetlinkMessage as Message;
        let inner = match &message.payload {
            NetlinkPayload::InnerMessage(inner) => inner,
            NetlinkPayload::Overrun(_) => return self.add(Affected::ALL),
            _ => return,
        };
        let port = message.header.port_number;
        let by_us = own.contains(&port);
        match inner {
            // A port that leaves its bridge is no device that goes away.
            Message::NewLink(link) | Message::DelLink(link)
                if link.header.interface_family != AddressFamily::Unspec => {}
            Message::NewLink(link) => self.change(Change::Link(message::link(link))),
            Message::DelLink(link) => self.change(Change::NoLink(link.header.index)),
            Message::NewAddress(address) => {
                message::host_address(address)
                    .into_iter()
                    .for_each(|a| self.change(Change::Address(a)));
            }
            Message::DelAddress(address) => {
                let address = message::host_address(address);
                address.into_iter().for_each(|a| self.change(Change::NoAddress(a)));
            }
            Message::NewRoute(route) if message::table(route) != table => self.route(route, true),
            Message::DelRoute(route) if message::table(route) != table => self.route(route, false),
            Message::NewRoute(route) | Message::DelRoute(route) if !by_us => {
                self.own_route(route, port);
            }
            Message::NewRule(rule) | Message::DelRule(rule) => {
                self.add(Affected::RULES);
                if !by_us && rules::table(rule) == table {
                    self.lock().culprit = Culprit::of_port(port);
                    self.add(Affected::OWN_RULES);
                }
            }
            _ => {}
        }
    }

    fn route(&self, route: &RouteMessage, is_new: bool) {
        if let Some(route) = message::main_route(route) {
            let change = if is_new { Change::Route } else { Change::NoRoute };
            self.change(change(route));
        }
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.contains(&message::table(route)) {
            self.add(Affected::RULE_TABLES);
        }
    }

    fn own_route(&self, route: &RouteMessage, port: u32) {
        let mut pending = self.lock();
        match message::to_route(route) {
            Some(route) => drop(pending.keys.insert(route.key)),
            None => pending.add(Affected::TABLE),
        }
        if let Some(culprit) = Culprit::of_port(port) {
            pending.culprit = Some(culprit);
        }
        pending.limit();
        drop(pending);
        self.arrived.notify_one();
    }

    fn change(&self, change: Change) {
        let mut pending = self.lock();
        pending.changes.push(change);
        pending.limit();
        drop(pending);
        self.arrived.notify_one();
    }
}

/// Subscribes, and reads notifications in tasks on `tasks`. Changes of the table by the sockets with the
/// numbers `own` are ignored.
pub(crate) fn watch(
    table: u32,
    own: [u32; 2],
    tasks: &mut JoinSet<()>,
) -> Result<Arc<Notifications>, NetlinkError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let (connection, _, mut messages) =
        new_multicast_connection(&groups).map_err(NetlinkError::Open)?;
    let notifications = Arc::new(Notifications::default());
    let settings = Arc::clone(&notifications);
    netconf::watch(move || settings.add(Affected::SETTINGS), tasks)?;
    let recorder = Arc::clone(&notifications);
    tasks.spawn(connection);
    tasks.spawn(async move {
        while let Some((message, _)) = messages.next().await {
            recorder.record(&message, table, own);
        }
    });
    Ok(notifications)
}
