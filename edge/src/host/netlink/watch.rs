//! What the kernel tells of changes, boiled down to what has to be looked at again.

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

/// Something to look at again: a set of flags, so that however much is told, nothing queues up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note(u8);

impl Note {
    /// Addresses, devices, or what is connected.
    pub(crate) const LOCAL: Self = Self(1);
    /// Our device.
    pub(crate) const DEVICE: Self = Self(2);
    /// Our table or rules, by somebody else's hand.
    pub(crate) const TABLE: Self = Self(4);
    /// Everything: notifications were lost.
    pub(crate) const ALL: Self = Self(7);

    /// Whether all of `other` is in this.
    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What has been told since the last look.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pending: AtomicU8,
    told: Notify,
}

impl Notes {
    /// Waits until there is something, and takes all of it. Cancelling loses nothing.
    pub(crate) async fn next(&self) -> Note {
        loop {
            match self.pending.swap(0, Ordering::Relaxed) {
                0 => self.told.notified().await,
                flags => return Note(flags),
            }
        }
    }

    fn tell(&self, note: Note) {
        self.pending.fetch_or(note.0, Ordering::Relaxed);
        self.told.notify_one();
    }
}

/// Subscribes, and runs the tasks that read until `tasks` is dropped.
///
/// `own` are the numbers of the sockets whose changes are not told.
///
/// # Errors
/// When there is no socket.
pub(crate) fn watch(
    device: String,
    table: u32,
    own: [u32; 2],
    tasks: &mut JoinSet<()>,
) -> Result<Arc<Notes>, NetlinkError> {
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
    let notes = Arc::new(Notes::default());
    let teller = Arc::clone(&notes);
    tasks.spawn(connection);
    tasks.spawn(async move {
        while let Some((message, _)) = messages.next().await {
            if let Some(note) = note(&message, &device, table, own) {
                teller.tell(note);
            }
        }
    });
    Ok(notes)
}

fn note(
    message: &NetlinkMessage<RouteNetlinkMessage>,
    device: &str,
    table: u32,
    own: [u32; 2],
) -> Option<Note> {
    use RouteNetlinkMessage as Message;
    let inner = match &message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        NetlinkPayload::Overrun(_) => return Some(Note::ALL),
        _ => return None,
    };
    let ours = own.contains(&message.header.port_number);
    match inner {
        Message::NewLink(link) | Message::DelLink(link) => {
            let named = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name == device);
            let is_ours = link.attributes.iter().any(named);
            Some(if is_ours { Note::DEVICE } else { Note::LOCAL })
        }
        Message::NewAddress(_) | Message::DelAddress(_) => Some(Note::LOCAL),
        Message::NewRoute(route) | Message::DelRoute(route) => of_route(route, table, ours),
        Message::NewRule(rule) | Message::DelRule(rule) => {
            (!ours && message::rule_table(rule) == table).then_some(Note::TABLE)
        }
        _ => None,
    }
}

fn of_route(route: &RouteMessage, table: u32, ours: bool) -> Option<Note> {
    if message::table(route) == table {
        return (!ours).then_some(Note::TABLE);
    }
    // A default route may come or go with the underlay's address.
    let default = route.header.destination_prefix_length == 0;
    (default || message::connected(route, None).is_some()).then_some(Note::LOCAL)
}
