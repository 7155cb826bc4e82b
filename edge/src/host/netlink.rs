//! The kernel's routes, rules, addresses and devices, over netlink.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rtnetlink's open enums have dozens of attributes, and only a few matter here"
)]

mod batch;
mod forwarding;
mod host;
mod message;
mod netconf;
mod rules;
#[cfg(test)]
mod tests;
mod watch;

use std::{collections::BTreeSet, fmt::Debug, net::IpAddr};

use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::{
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteMessage, RouteType},
};
use rtnetlink::{
    Handle, IpVersion, LinkUnspec,
    packet_core::{NetlinkDeserializable, NetlinkSerializable},
    proto::Connection,
    sys::{AsyncSocket as _, SocketAddr},
};
use rustix::io::Errno;
use tokio::task::AbortHandle;

use super::{
    reconcile::{Route, RouteKey},
    tun::{ALIAS, DEVICE_GROUP},
};
use batch::{Batches, Kind};
pub(crate) use forwarding::{HostAddress, Passage, Redirecting};
pub use message::Address;
pub(crate) use watch::{Affected, Notifications, Pending, watch};

/// The priority of the policy rules: before the main table (32766), after the local table (0) and the
/// rules of container networks (Cilium: up to 111, AWS VPC: up to 1536).
pub const RULE_PRIORITY: u32 = 5842;

/// Netlink sockets. Their tasks end when this is dropped.
#[derive(Debug)]
pub struct Kernel {
    handle: Handle,
    batches: Batches,
    port: u32,
    task: AbortHandle,
}

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket")]
    Open(#[source] std::io::Error),
    #[error("{what}")]
    Refused {
        /// The request, with its value.
        what: String,
        source: std::io::Error,
    },
}

/// A route as the kernel has it.
#[derive(Clone, Debug)]
pub struct Found {
    pub route: Route,
    message: RouteMessage,
}

/// How packets to a destination leave the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exit {
    /// The number of the device.
    pub device: u32,
    /// The source address that the kernel chooses.
    pub source: Option<IpAddr>,
}

/// How a packet leaves the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The number of the device.
    pub device: u32,
    /// The table with the route.
    pub table: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub loopback: bool,
    pub is_tun: bool,
    /// Whether the cable is in, or the other end is up (`IFF_LOWER_UP`).
    pub carrier: bool,
    pub is_bridge: bool,
    /// The number of the bridge or bond that it is a port of.
    pub controller: Option<u32>,
    /// Its alias (`ip link set … alias`), which marks the devices of this program.
    pub alias: Option<String>,
}

impl Kernel {
    /// Opens the sockets. Their tasks run on the current tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(NetlinkError::Open)?;
        let port = bind(&mut connection)?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, batches: Batches::open()?, port, task })
    }

    /// Whether a socket has failed. Then no request is answered.
    pub(crate) fn is_lost(&self) -> bool {
        self.task.is_finished() || self.batches.is_lost()
    }

    /// The numbers of the sockets. Notifications have the number of the socket that made the change.
    pub(crate) fn ports(&self) -> [u32; 2] {
        [self.port, self.batches.port]
    }

    /// Adds routes, each replacing the one at its key. Tries all of them, and returns the first refusal.
    pub async fn put(&self, table: u32, routes: &[Route]) -> Result<(), NetlinkError> {
        self.batches.run(Kind::Put, routes, move |route| message::of_route(route, table)).await
    }

    /// Deletes the routes at these keys, if there are any. Tries all of them, and returns the first
    /// refusal.
    pub async fn delete_keys(
        &self,
        table: u32,
        keys: &BTreeSet<RouteKey>,
    ) -> Result<(), NetlinkError> {
        let keys: Vec<&RouteKey> = keys.iter().collect();
        self.batches.run(Kind::Delete, &keys, move |key| Some(message::of_key(key, table))).await
    }

    /// Deletes these routes. Tries all of them, and returns the first refusal.
    pub async fn delete_found(&self, found: &[&Found]) -> Result<(), NetlinkError> {
        self.batches.run(Kind::Delete, found, |found| Some(found.message.clone())).await
    }

    /// All routes of a table.
    pub async fn table(&self, table: u32) -> Result<Vec<Found>, NetlinkError> {
        let mut found = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let request = message::dump(version.clone(), table, RouteType::Unspec);
            let mut routes = std::pin::pin!(self.handle.route().get(request).execute());
            while let Some(message) = next_of_dump(routes.next().await, "reading routes")? {
                if message::table(&message) == table
                    && message::has_family(message.header.address_family, &version)
                    && let Some(route) = message::to_route(&message)
                {
                    found.push(Found { route, message });
                }
            }
        }
        Ok(found)
    }

    /// Subnets that the main table has without a gateway, except those through the device `except`. Each
    /// with whether the kernel has added it for an address of the host.
    pub async fn connected(
        &self,
        except: Option<u32>,
    ) -> Result<BTreeSet<(IpNet, bool)>, NetlinkError> {
        let mut connected = BTreeSet::new();
        let main = u32::from(netlink_packet_route::route::RouteHeader::RT_TABLE_MAIN);
        for version in [IpVersion::V4, IpVersion::V6] {
            let request = message::dump(version, main, RouteType::Unicast);
            let mut routes = std::pin::pin!(self.handle.route().get(request).execute());
            while let Some(message) = next_of_dump(routes.next().await, "reading the main table")? {
                let by_kernel = message::is_by_kernel(&message);
                let net = message::connected(&message, except);
                connected.extend(net.map(|net| (net, by_kernel)));
            }
        }
        Ok(connected)
    }

    /// The addresses of the host that can be used now: not loopback or link-local ones, and none while
    /// duplicate address detection runs.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let dump = self.handle.address().get().execute();
        let messages: Vec<_> =
            dump.try_collect().await.map_err(|error| into_error(error, "reading addresses"))?;
        let mut addresses: Vec<Address> = messages.iter().filter_map(message::to_address).collect();
        addresses.sort();
        Ok(addresses)
    }

    /// How a packet of this host with this mark leaves; `None` if there is no route.
    pub async fn exit(&self, to: IpAddr, mark: u32) -> Result<Option<Exit>, NetlinkError> {
        let reply = self.handle.route().get(message::lookup(to, mark)).execute();
        let reply = std::pin::pin!(reply).next().await;
        match reply {
            Some(Ok(message)) => Ok(message::exit(&message)),
            None => Ok(None),
            Some(Err(error)) => {
                let error = into_error(error, format!("looking up {to}"));
                if error.errno().is_some_and(means_no_route) { Ok(None) } else { Err(error) }
            }
        }
    }

    pub async fn devices(&self) -> Result<Vec<Device>, NetlinkError> {
        let dump = self.handle.link().get().execute();
        let messages: Vec<_> =
            dump.try_collect().await.map_err(|error| into_error(error, "reading devices"))?;
        Ok(messages.iter().map(to_device).collect())
    }

    /// Sets queue length, MTU (in bytes) and group of a device, marks it as this program's, and brings it up.
    pub async fn set_device(&self, index: u32, queue: u32, mtu: u16) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index)
            .txqueuelen(queue)
            .mtu(u32::from(mtu))
            .alias(ALIAS)
            .link_group(DEVICE_GROUP)
            .up()
            .build();
        let result = self.handle.link().set(message).execute().await;
        refused(result, || format!("device {index}: MTU {mtu}, queue {queue}"))
    }

    pub async fn set_device_up(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        let result = self.handle.link().set(message).execute().await;
        refused(result, || format!("bringing device {index} up"))
    }

    /// Whether there is a device of this name that is no TUN.
    pub async fn has_other_device(&self, name: &str) -> Result<bool, NetlinkError> {
        let dump = self.handle.link().get().execute();
        let messages: Vec<LinkMessage> =
            dump.try_collect().await.map_err(|error| into_error(error, "reading devices"))?;
        let is_tun = |message: &LinkMessage| {
            message.attributes.iter().any(|attribute| {
                matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Tun)))
            })
        };
        Ok(messages.iter().any(|message| to_device(message).name == name && !is_tun(message)))
    }

    /// Deletes a device, if it is there.
    pub async fn delete_device(&self, index: u32) -> Result<(), NetlinkError> {
        let result = self.handle.link().del(index).execute().await;
        gone_is_fine(refused(result, || format!("deleting device {index}")))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NetlinkError {
    /// The kernel's error, if it is the cause.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => Errno::from_io_error(source),
        }
    }
}

/// Binds a socket and returns its number. Otherwise it would be bound at its first request, and
/// notifications of its own changes could not be recognised.
fn bind<T>(connection: &mut Connection<T>) -> Result<u32, NetlinkError>
where
    T: Debug + NetlinkSerializable + NetlinkDeserializable + Unpin,
{
    let mut address = SocketAddr::new(0, 0);
    let socket = connection.socket_mut().socket_mut();
    socket
        .bind_auto()
        .and_then(|_| socket.get_address(&mut address))
        .map_err(NetlinkError::Open)?;
    Ok(address.port_number())
}

fn refused(
    result: Result<(), rtnetlink::Error>,
    what: impl FnOnce() -> String,
) -> Result<(), NetlinkError> {
    result.map_err(|error| into_error(error, what()))
}

fn into_error(error: rtnetlink::Error, what: impl Into<String>) -> NetlinkError {
    let source = match error {
        rtnetlink::Error::NetlinkError(error) => error.to_io(),
        other => std::io::Error::other(other),
    };
    NetlinkError::Refused { what: what.into(), source }
}

fn gone_is_fine(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if matches!(error.errno(), Some(Errno::SRCH | Errno::NOENT | Errno::NODEV)) => {
            Ok(())
        }
        other => other,
    }
}

/// Whether a failed lookup means that packets cannot leave: there is no route, or the kernel lacks the
/// family (`ipv6.disable=1`).
fn means_no_route(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NETUNREACH
            | Errno::HOSTUNREACH
            | Errno::INVAL
            | Errno::ACCESS
            | Errno::AGAIN
            | Errno::OPNOTSUPP
            | Errno::AFNOSUPPORT
    )
}

/// The next item of a dump. A table that does not exist is empty, and so is a family that the kernel
/// lacks.
fn next_of_dump<T>(
    item: Option<Result<T, rtnetlink::Error>>,
    what: &str,
) -> Result<Option<T>, NetlinkError> {
    match item.transpose().map_err(|error| into_error(error, what)) {
        Err(error)
            if matches!(
                error.errno(),
                Some(Errno::NOENT | Errno::AFNOSUPPORT | Errno::OPNOTSUPP)
            ) =>
        {
            Ok(None)
        }
        other => other,
    }
}

fn to_device(message: &LinkMessage) -> Device {
    let mut device = Device {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        is_tun: false,
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        is_bridge: false,
        controller: None,
        alias: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => device.alias = Some(alias.clone()),
            LinkAttribute::LinkInfo(infos) => {
                device.is_tun = infos.contains(&LinkInfo::Kind(InfoKind::Tun));
                device.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
            LinkAttribute::Controller(index) => device.controller = Some(*index),
            _ => {}
        }
    }
    device
}
