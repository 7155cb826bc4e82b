//! The host's networks and the ways of its packets.

use std::net::IpAddr;

use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::route::{RouteHeader, RouteType};
use rtnetlink::IpVersion;
use rustix::io::Errno;

use super::{Kernel, NetlinkError, Way, into_error, means_no_route, message, next_of_dump};
use crate::host::{networks::Change, rules::Packet};

impl Kernel {
    /// All devices, addresses, and routes of the main table, as changes of an empty host.
    pub async fn host(&self) -> Result<Vec<Change>, NetlinkError> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| into_error(error, "reading devices"))?;
        let mut host: Vec<Change> =
            links.iter().map(|link| Change::Link(message::link(link))).collect();
        let addresses: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| into_error(error, "reading addresses"))?;
        let addresses = addresses.iter().filter_map(message::host_address).map(Change::Address);
        host.extend(addresses);
        let main = u32::from(RouteHeader::RT_TABLE_MAIN);
        for version in [IpVersion::V4, IpVersion::V6] {
            let request = message::dump(version, main, RouteType::Unspec);
            let mut routes = std::pin::pin!(self.handle.route().get(request).execute());
            while let Some(message) = next_of_dump(routes.next().await, "reading the main table")? {
                host.extend(message::main_route(&message).map(Change::Route));
            }
        }
        Ok(host)
    }

    /// The networks of the first routes of a table.
    pub async fn nets(&self, table: u32, limit: usize) -> Result<Vec<IpNet>, NetlinkError> {
        let mut nets = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let request = message::dump(version, table, RouteType::Unspec);
            let mut routes = std::pin::pin!(self.handle.route().get(request).execute());
            while let Some(message) = next_of_dump(routes.next().await, "reading a table")? {
                if nets.len() < limit && message::table(&message) == table {
                    nets.extend(message::destination(&message));
                }
            }
        }
        Ok(nets)
    }

    /// How a packet to this address leaves; `None` if it does not, or if the kernel does not tell.
    pub async fn way(&self, to: IpAddr, packet: &Packet) -> Result<Option<Way>, NetlinkError> {
        let reply = self.handle.route().get(message::lookup_packet(to, packet)).execute();
        let reply = std::pin::pin!(reply).next().await;
        match reply {
            Some(Ok(message)) => Ok(message::way(&message)),
            None => Ok(None),
            Some(Err(error)) => {
                let error = into_error(error, format!("looking up {to}"));
                // A source that cannot come in by the device: EXDEV.
                let no_way = |errno| means_no_route(errno) || errno == Errno::XDEV;
                if error.errno().is_some_and(no_way) { Ok(None) } else { Err(error) }
            }
        }
    }
}
