//! Notifications of the kernel, reduced to what has to be read again.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use futures_util::StreamExt as _;
use netlink_packet_route::{RouteNetlinkMessage, link::LinkAttribute, route::RouteMessage};
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::{sync::Notify, task::JoinSet};

use super::{NetlinkError, message};

/// What has to be read again. It is a set of flags, so that nothing queues up however many notifications
/// arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Affected(u8);

impl Affected {
    /// Addresses, other devices, and connected subnets.
    pub(crate) const LOCAL: Self = Self(1);
    /// The edge's device.
    pub(crate) const DEVICE: Self = Self(2);
    /// The edge's table or rules, changed by another program.
    pub(crate) const TABLE: Self = Self(4);
    /// Everything, because notifications were lost.
    pub(crate) const ALL: Self = Self(7);

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is affected by the notifications that were not handled yet.
#[derive(Debug, Default)]
pub(crate) struct Notifications {
    pending: AtomicU8,
    arrived: Notify,
}

impl Notifications {
    /// Waits for notifications and takes all of them. Cancel-safe.
    pub(crate) async fn next(&self) -> Affected {
        loop {
            match self.pending.swap(0, Ordering::Relaxed) {
                0 => self.arrived.notified().await,
                flags => return Affected(flags),
            }
        }
    }

    fn add(&self, affected: Affected) {
        self.pending.fetch_or(affected.0, Ordering::Relaxed);
        self.arrived.notify_one();
    }
}

/// Subscribes, and reads notifications in tasks on `tasks`. Changes of the table by the sockets with the
/// numbers `own` are ignored.
pub(crate) fn watch(
    device: String,
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
    let pending = Arc::clone(&notifications);
    tasks.spawn(connection);
    tasks.spawn(async move {
        while let Some((message, _)) = messages.next().await {
            if let Some(affected) = affected(&message, &device, table, own) {
                pending.add(affected);
            }
        }
    });
    Ok(notifications)
}

fn affected(
    message: &NetlinkMessage<RouteNetlinkMessage>,
    device: &str,
    table: u32,
    own: [u32; 2],
) -> Option<Affected> {
    use RouteNetlinkMessage as Message;
    let inner = match &message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        NetlinkPayload::Overrun(_) => return Some(Affected::ALL),
        _ => return None,
    };
    let by_us = own.contains(&message.header.port_number);
    match inner {
        Message::NewLink(link) | Message::DelLink(link) => {
            let named = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name == device);
            let is_ours = link.attributes.iter().any(named);
            Some(if is_ours { Affected::DEVICE } else { Affected::LOCAL })
        }
        Message::NewAddress(_) | Message::DelAddress(_) => Some(Affected::LOCAL),
        Message::NewRoute(route) | Message::DelRoute(route) => {
            affected_by_route(route, table, by_us)
        }
        Message::NewRule(rule) | Message::DelRule(rule) => {
            (!by_us && message::rule_table(rule) == table).then_some(Affected::TABLE)
        }
        _ => None,
    }
}

fn affected_by_route(route: &RouteMessage, table: u32, by_us: bool) -> Option<Affected> {
    if message::table(route) == table {
        return (!by_us).then_some(Affected::TABLE);
    }
    // A change of a default route can change the underlay's address.
    let default = route.header.destination_prefix_length == 0;
    (default || message::connected(route, None).is_some()).then_some(Affected::LOCAL)
}
