//! What was measured of the host's routing.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::host::{backoff::Undone, rules::Rule};

#[derive(Clone, Debug, Default)]
pub struct RoutingFacts {
    /// What the kernel refuses.
    pub error: Option<String>,
    pub bypassed: Vec<Bypassed>,
    /// What would be bypassed by packets with the mark of a rule. Whether there are any is not known.
    pub bypassed_if_marked: Vec<Bypassed>,
    pub overlaps: Vec<Overlap>,
    /// Services of clouds inside prefixes of other sites.
    pub reserved: Vec<Reserved>,
    pub forwarding_off: Vec<ForwardingOff>,
    /// Devices whose default route is advertised, on a host that ignores advertisements.
    pub advertisements_ignored: Vec<String>,
    pub undone: Vec<Undone>,
    pub mtu: Option<WrongMtu>,
    /// Rules that send the edge's own packets elsewhere than others: for `mark-dropped`.
    pub marked: Vec<Marked>,
}

/// Packets of the site for a prefix of the mesh do not go into the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bypassed {
    pub prefix: IpNet,
    /// An address inside it for which this was found.
    pub to: IpAddr,
    pub from: Option<IpAddr>,
    /// The device by which the packet came in; `None` for packets of the host itself.
    pub iif: Option<String>,
    /// The device by which it leaves; `None` if a rule refuses it.
    pub device: Option<String>,
    pub table: u32,
    /// The rule that does it, if it was found, and a priority behind the edge's own rule that is free.
    pub rule: Option<(Rule, u32)>,
}

/// A network of the host that overlaps a prefix of another site and takes precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    pub local: IpNet,
    pub device: Option<String>,
    pub prefix: IpNet,
    /// Whether the whole prefix is hidden.
    pub whole: bool,
    /// Whether it is a route over a router, or one that refuses.
    pub route: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    pub net: IpNet,
    pub what: &'static str,
    pub prefix: IpNet,
}

/// Forwarding is off, and stays off or was not switched on yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardingOff {
    /// `None`: of the whole host.
    pub device: Option<String>,
    /// The setting, such as `ipv4/conf/eth1/forwarding`.
    pub key: String,
    /// Why it cannot be switched on.
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongMtu {
    pub device: String,
    pub is: u32,
    pub should_be: u16,
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    pub remote: IpAddr,
    pub rule: Rule,
    /// The device by which marked packets leave; `None` if they do not.
    pub device: Option<String>,
    /// The same of packets without the mark.
    pub unmarked_device: Option<String>,
}
