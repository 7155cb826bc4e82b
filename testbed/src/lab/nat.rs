use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use super::internet::{INTERFACE, any_of_family, nodad};
use crate::netns::{FORWARDING, Netns};

/// How a NAT between a site's edge and the internet behaves. The edge has a private address.
#[derive(Clone, Debug)]
pub struct Nat {
    one_to_one: bool,
    random_ports: bool,
    udp_timeout: Option<Duration>,
}

impl Nat {
    /// Many hosts behind one address: only replies come in. Source ports are preserved where
    /// possible.
    pub fn masquerade() -> Self {
        Self { one_to_one: false, random_ports: false, udp_timeout: None }
    }

    /// 1:1 NAT as in a cloud's VPC: all packets to the public address go to the edge.
    pub fn one_to_one() -> Self {
        Self { one_to_one: true, ..Self::masquerade() }
    }

    /// Gives every flow a random source port ("symmetric NAT").
    #[must_use]
    pub fn random_ports(self) -> Self {
        Self { random_ports: true, ..self }
    }

    /// Idle timeout of UDP mappings; the kernel counts whole seconds.
    #[must_use]
    pub fn udp_timeout(self, timeout: Duration) -> Self {
        Self { udp_timeout: Some(timeout), ..self }
    }

    /// Connects `edge` to `nat`, which already has its uplink. `families` are the public addresses.
    pub(super) fn set_up(
        &self,
        nat: &Netns,
        edge: &Netns,
        table: usize,
        families: &[IpNet],
    ) -> Result<()> {
        nat.sysctls(FORWARDING)?;
        let mut inside = String::from("link set eth1 up\n");
        let mut outside = format!("link set {INTERFACE} up\n");
        for (gateway, host) in families.iter().map(|net| private(net.addr(), table)) {
            let (gateway, host) = (gateway?, host?);
            inside += &format!("addr add {gateway} dev eth1{}\n", nodad(gateway));
            let (any, via) = (any_of_family(host), gateway.addr());
            outside += &format!("addr add {host} dev {INTERFACE}{}\n", nodad(host));
            outside += &format!("route add {any} via {via} dev {INTERFACE}\n");
        }
        nat.ip(&format!(
            "link add eth1 type veth peer name {INTERFACE} netns {}\n{inside}",
            edge.name()
        ))?;
        edge.ip(&outside)?;
        nat.nft(&self.ruleset(table))?;
        if let Some(timeout) = self.udp_timeout {
            let seconds = timeout.as_secs().max(1).to_string();
            nat.sysctls(&[
                ("netfilter/nf_conntrack_udp_timeout", &seconds),
                ("netfilter/nf_conntrack_udp_timeout_stream", &seconds),
            ])?;
        }
        Ok(())
    }

    fn ruleset(&self, table: usize) -> String {
        let random = if self.random_ports { " fully-random" } else { "" };
        let inwards = if self.one_to_one {
            format!(
                "iifname eth0 dnat ip to 100.64.{table}.2\niifname eth0 dnat ip6 to fd64:{table}::2\n"
            )
        } else {
            String::new()
        };
        format!(
            "table inet nat {{\n\
             chain outwards {{\ntype nat hook postrouting priority srcnat\noifname eth0 masquerade{random}\n}}\n\
             chain inwards {{\ntype nat hook prerouting priority dstnat\n{inwards}}}\n\
             chain forward {{\ntype filter hook forward priority filter; policy drop\n\
             iifname eth1 accept\nct state established,related accept\nct status dnat accept\n}}\n\
             chain input {{\ntype filter hook input priority filter; policy drop\n\
             iifname != eth0 accept\nct state established,related accept\n\
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n}}\n}}\n"
        )
    }
}

/// The NAT's and the edge's addresses on the link between them, in the family of `public`: shared
/// address space (RFC 6598) or unique local addresses.
fn private(public: IpAddr, table: usize) -> (Result<IpNet>, Result<IpNet>) {
    let address = |n| {
        let text = if public.is_ipv4() {
            format!("100.64.{table}.{n}/24")
        } else {
            format!("fd64:{table}::{n}/64")
        };
        text.parse().with_context(|| format!("too many sites: {text}"))
    };
    (address(1), address(2))
}

/// Connects another edge to the NAT, instead of to its own uplink. Returns its private address.
pub(super) fn add_edge(nat: &Netns, edge: &Netns) -> Result<IpAddr> {
    let (gateway, host) = (Ipv4Addr::new(100, 64, 255, 1), Ipv4Addr::new(100, 64, 255, 2));
    nat.ip(&format!(
        "link add eth2 type veth peer name eth2 netns {}\naddr add {gateway}/24 dev eth2\nlink set eth2 up",
        edge.name()
    ))?;
    edge.ip(&format!(
        "link set {INTERFACE} down\naddr add {host}/24 dev eth2\nlink set eth2 up\n\
         route replace default via {gateway} dev eth2"
    ))?;
    nat.nft("insert rule inet nat forward iifname \"eth2\" accept\n")?;
    Ok(host.into())
}

/// Deletes all mappings of the namespace.
pub(super) fn flush_mappings(nat: &Netns) -> Result<()> {
    nat.enter(flush_conntrack)?
}

fn flush_conntrack() -> Result<()> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))
            .context("opening a netlink socket")?;
    sendto(&socket, &flush_request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
        .context("sending a request to delete the mappings")?;
    let mut answer = [0; 64];
    let (_, length) =
        recv(&socket, &mut answer[..], RecvFlags::empty()).context("reading netlink's answer")?;
    // An nlmsghdr of 16 bytes, then nlmsgerr's error: 0, or a negative errno.
    let error = answer[..length.min(answer.len())]
        .get(16..20)
        .map(|bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    match error {
        Some(0) => Ok(()),
        Some(errno) => {
            Err(std::io::Error::from_raw_os_error(-errno)).context("deleting the mappings")
        }
        None => bail!("netlink's answer has only {length} bytes"),
    }
}

/// `IPCTNL_MSG_CT_DELETE` of `linux/netfilter/nfnetlink_conntrack.h` for all mappings: `nlmsghdr`
/// (length, type, flags, sequence, port) and `nfgenmsg` (family, version, resource), in host order.
fn flush_request() -> [u8; 20] {
    const LENGTH: u32 = 20;
    const CT_DELETE: u16 = (1 << 8) | 2;
    const REQUEST_AND_ACK: u16 = 0x1 | 0x4;
    let mut request = [0; LENGTH as usize];
    request[..4].copy_from_slice(&LENGTH.to_ne_bytes());
    request[4..6].copy_from_slice(&CT_DELETE.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_AND_ACK.to_ne_bytes());
    request
}
