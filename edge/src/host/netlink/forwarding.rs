//! What the measurement of forwarding reads from the kernel, and the redirection of its packets.

use std::{collections::BTreeSet, net::IpAddr};

use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::{
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
    route::{RouteAttribute, RouteMessage, RouteType},
    tc::{
        TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption,
        TcActionOption, TcActionType, TcAttribute, TcFilterU32Option, TcMessage, TcMirror,
        TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
    },
};
use rtnetlink::LinkUnspec;
use rustix::io::Errno;

use super::{Kernel, NetlinkError, gone_is_fine, into_error, message, refused};

/// An address of the host with its subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostAddress {
    /// The number of its device.
    pub(crate) device: u32,
    pub(crate) ip: IpAddr,
    pub(crate) net: IpNet,
}

/// A device whose arriving packets are redirected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Redirecting {
    pub(crate) up: bool,
    pub(crate) address: Vec<u8>,
    /// Numbers of devices.
    pub(crate) targets: BTreeSet<u32>,
}

/// How the kernel would handle a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    /// Through this device, and by this router.
    Device { index: u32, gateway: Option<IpAddr> },
    /// To the host itself.
    Local,
    /// It is dropped because its source would be reached by another device.
    ReversePath,
    /// There is no route.
    None,
}

/// `ETH_P_ALL` of linux/if_ether.h, in network order.
const ANY_PROTOCOL: u16 = 0x0003_u16.to_be();
/// From the IP header back to the last four bytes of the source's hardware address.
const SOURCE_OFFSET: i32 = -6;

impl Kernel {
    /// All addresses with their subnets, but for loopback and link-local ones.
    pub(crate) async fn host_addresses(&self) -> Result<Vec<HostAddress>, NetlinkError> {
        let dump = self.handle.address().get().execute();
        let messages: Vec<_> =
            dump.try_collect().await.map_err(|error| into_error(error, "reading addresses"))?;
        Ok(messages.iter().filter_map(host_address).collect())
    }

    /// The hosts that the kernel knows on a device, at most `max`.
    pub(crate) async fn neighbours(
        &self,
        device: u32,
        max: usize,
    ) -> Result<Vec<IpAddr>, NetlinkError> {
        let mut request = self.handle.neighbours().get();
        // The kernel filters by this attribute (`neigh_valid_dump_req`).
        request.message_mut().attributes.push(NeighbourAttribute::IfIndex(device));
        let mut dump = std::pin::pin!(request.execute());
        let mut found = Vec::new();
        while let Some(message) =
            dump.try_next().await.map_err(|error| into_error(error, "reading neighbours"))?
        {
            let known = !matches!(
                message.header.state,
                NeighbourState::None
                    | NeighbourState::Incomplete
                    | NeighbourState::Failed
                    | NeighbourState::Noarp
            );
            let ip = message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                    Some(IpAddr::V4(*ip))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    Some(IpAddr::V6(*ip))
                }
                _ => None,
            });
            if known && message.header.ifindex == device && found.len() < max {
                found.extend(ip);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// How a packet leaves. `from`: its source and the device by which it arrives; without them, how one
    /// of the host itself does.
    pub(crate) async fn passage(
        &self,
        to: IpAddr,
        from: Option<(IpAddr, u32)>,
    ) -> Result<Passage, NetlinkError> {
        let mut request = message::lookup(to, 0);
        request.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Mark(_)));
        if let Some((source, device)) = from {
            request.header.source_prefix_length = if source.is_ipv6() { 128 } else { 32 };
            request.attributes.push(RouteAttribute::Source(source.into()));
            request.attributes.push(RouteAttribute::Iif(device));
        }
        let reply = std::pin::pin!(self.handle.route().get(request).execute()).next().await;
        match reply {
            Some(Ok(message)) => Ok(passage(&message)),
            None => Ok(Passage::None),
            Some(Err(error)) => {
                let error = into_error(error, format!("looking up {to}"));
                match error.errno() {
                    Some(Errno::XDEV) => Ok(Passage::ReversePath),
                    Some(errno) if super::means_no_route(errno) => Ok(Passage::None),
                    _ => Err(error),
                }
            }
        }
    }

    /// A device's hardware address.
    pub(crate) async fn hardware_address(&self, index: u32) -> Result<Vec<u8>, NetlinkError> {
        let mut dump = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let message = dump.try_next().await;
        let message =
            message.map_err(|error| into_error(error, format!("reading device {index}")))?;
        let attributes = message.map(|message| message.attributes).unwrap_or_default();
        let address = attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(address) => Some(address),
            _ => None,
        });
        Ok(address.unwrap_or_default())
    }

    /// A device with its hardware address and the devices to which its arriving packets are redirected;
    /// `None` if there is no such device.
    pub(crate) async fn redirecting(
        &self,
        index: u32,
    ) -> Result<Option<Redirecting>, NetlinkError> {
        let what = || format!("reading device {index}");
        let mut dump = std::pin::pin!(self.handle.link().get().match_index(index).execute());
        let message = match dump.try_next().await.map_err(|error| into_error(error, what())) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(error) => return gone_is_fine(Err(error)).map(|()| None),
        };
        let mut found = Redirecting {
            up: message.header.flags.contains(LinkFlags::Up),
            ..Redirecting::default()
        };
        found.address.extend(
            message
                .attributes
                .into_iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::Address(address) => Some(address),
                    _ => None,
                })
                .unwrap_or_default(),
        );
        let request = self.handle.traffic_filter(index.cast_signed()).get().ingress();
        let mut filters = std::pin::pin!(request.execute());
        while let Some(filter) =
            filters.try_next().await.map_err(|error| into_error(error, what()))?
        {
            found.targets.extend(redirected(&filter));
        }
        Ok(Some(found))
    }

    /// Gives a device a description that other programs can show, and brings it up.
    pub(crate) async fn describe_device(
        &self,
        index: u32,
        description: &str,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(index).up().build();
        message.attributes.push(LinkAttribute::IfAlias(description.to_owned()));
        let result = self.handle.link().set(message).execute().await;
        refused(result, || format!("bringing device {index} up"))
    }

    /// Gives a device an ingress queue, to which [`redirect`](Self::redirect) adds filters.
    pub(crate) async fn add_ingress(&self, index: u32) -> Result<(), NetlinkError> {
        let result = self.handle.qdisc().add(index.cast_signed()).ingress().execute().await;
        match refused(result, || "adding an ingress queue (sch_ingress)".to_owned()) {
            Err(error) if error.errno() == Some(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    /// Packets that arrive by device `index`, and whose source's hardware address ends with the number of
    /// the device `to`, go on as if they had arrived there.
    pub(crate) async fn redirect(&self, index: u32, to: u32) -> Result<(), NetlinkError> {
        let mut key = TcU32Key::default();
        (key.mask, key.val, key.off) = (u32::MAX, to, SOURCE_OFFSET);
        let mut selector = TcU32Selector::default();
        selector.flags = TcU32SelectorFlags::Terminal;
        selector.nkeys = 1;
        selector.keys = vec![key];
        let mut generic = TcActionGeneric::default();
        generic.action = TcActionType::Stolen;
        let mut mirror = TcMirror::default();
        mirror.generic = generic;
        mirror.eaction = TcMirrorActionType::IngressRedir;
        mirror.ifindex = to;
        let mut action = TcAction::default();
        action.attributes = vec![
            TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
            TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(
                mirror,
            ))]),
        ];
        let options =
            [TcFilterU32Option::Selector(selector), TcFilterU32Option::Action(vec![action])];
        let request = self.handle.traffic_filter(index.cast_signed()).add();
        let request = request.ingress().priority(1).protocol(ANY_PROTOCOL);
        let result = match request.parent(0xffff_0000).u32(&options) {
            Ok(request) => request.execute().await,
            Err(error) => Err(error),
        };
        let what = || "redirecting packets (cls_u32, act_mirred)".to_owned();
        gone_is_fine(refused(result, what))
    }
}

/// The device to which a filter redirects packets; 0 if it was removed since.
fn redirected(filter: &TcMessage) -> Option<u32> {
    let actions = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
            _ => None,
        }),
        _ => None,
    })?;
    let options =
        actions.iter().flat_map(|action| &action.attributes).find_map(
            |attribute| match attribute {
                TcActionAttribute::Options(options) => Some(options),
                _ => None,
            },
        )?;
    options.iter().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror.ifindex),
        _ => None,
    })
}

fn host_address(message: &AddressMessage) -> Option<HostAddress> {
    let address = message::to_address(message)?;
    // On a point-to-point device this is the other end, and its prefix is not the host's subnet.
    let subnet = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let net = IpNet::new(subnet.unwrap_or(address.ip), message.header.prefix_len).ok()?;
    Some(HostAddress { device: address.device, ip: address.ip, net: net.trunc() })
}

fn passage(message: &RouteMessage) -> Passage {
    let mut device = None;
    let mut gateway = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(address) => gateway = message::ip(address),
            _ => {}
        }
    }
    match (message.header.kind, device) {
        (RouteType::Local, _) => Passage::Local,
        (RouteType::Unicast, Some(index)) => Passage::Device { index, gateway },
        _ => Passage::None,
    }
}
