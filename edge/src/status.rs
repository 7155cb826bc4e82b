//! What `status` shows. The JSON is stable: fields are added, never renamed or removed.

mod table;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::problem::ProblemStatus;

pub use table::render;

// fields: the top level of a JSON document; each part has a struct of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub instance: String,
    /// The edge's SPIFFE ID.
    pub id: String,
    /// The version of this program.
    pub software: String,
    pub pid: u32,
    pub uptime_secs: u64,
    /// The host's clock, in Unix seconds.
    pub clock: u64,
    /// The UDP port of links.
    pub listen: u16,
    pub state: StateStatus,
    pub controller: ControllerStatus,
    pub certificate: CertificateStatus,
    pub device: DeviceStatus,
    /// Links to all peers, by name.
    pub links: Vec<LinkStatus>,
    pub routes: RouteStatus,
    /// Packets dropped, by reason; reasons with a count of 0 are left out.
    pub drops: BTreeMap<String, u64>,
    /// Of all links together.
    pub traffic: Traffic,
    /// What is wrong, the worst first.
    pub problems: Vec<ProblemStatus>,
}

/// The desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateStatus {
    /// The applied version; `None` before the first.
    pub version: Option<String>,
    /// Time since a controller last confirmed the state; 0 during a session.
    pub age_secs: Option<u64>,
    /// Prefixes of this edge.
    pub own: Vec<String>,
    /// Number of prefixes of other edges.
    pub foreign: usize,
    /// Why a controller has cut this edge off from the mesh, if one has.
    pub cut_off: Option<String>,
    /// When, in Unix seconds.
    #[serde(default)]
    pub cut_off_at: Option<u64>,
}

/// The session with a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerStatus {
    /// The controller's address, while there is a session.
    pub connected: Option<SocketAddr>,
    /// For how long there has been a session, or none.
    pub since_secs: u64,
    /// Why there is no session.
    pub error: Option<String>,
    /// The controllers that are dialled.
    pub addresses: Vec<String>,
}

/// The edge's certificate. Times are in Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    pub serial: String,
    pub not_before: u64,
    pub not_after: u64,
    /// Whole days until `not_after`; negative afterwards.
    pub days_left: i64,
    /// When the next renewal is due.
    pub renew_at: u64,
    /// Why the last renewal failed.
    pub renewal_error: Option<String>,
}

/// The TUN device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub name: String,
    /// The kernel's number of the device.
    pub index: u32,
    /// In bytes.
    pub mtu: u16,
    pub present: bool,
}

// fields: one row of a JSON document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The edge at the other end.
    pub peer: String,
    pub up: bool,
    /// Why there can be no link.
    #[serde(default)]
    pub absent: Option<Absence>,
    /// For how long the link has been up or down.
    pub since_secs: u64,
    /// The peer's address on the underlay, while the link is up.
    pub remote: Option<SocketAddr>,
    /// The peer's endpoints, resolved.
    pub addresses: Vec<SocketAddr>,
    /// Whether this edge dialled the peer, and not the peer this edge.
    pub dialed: bool,
    /// Round-trip time in microseconds.
    pub rtt_us: u64,
    /// The largest UDP payload that the path carries, in bytes.
    pub path_mtu: u16,
    /// The largest inner packet that is sent whole, in bytes; larger ones are fragmented.
    pub largest_inner: usize,
    /// How often the path MTU was reset to the minimum because larger packets were lost.
    pub black_holes: u64,
    /// The ratio of outer packets that were lost, 0 to 1.
    pub loss: f64,
    pub traffic: Traffic,
    /// Why the link last went down or was refused.
    pub reason: Option<String>,
}

/// Why a peer is no member of the mesh now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absence {
    NotJoined,
    Revoked,
}

/// Inner packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
}

/// Routes in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The routing table's number.
    pub table: u32,
    /// The mark of underlay packets.
    pub mark: u32,
    /// Number of routes that should be installed.
    pub intended: usize,
    /// Number of intended routes that are installed.
    pub installed: usize,
    /// Some of the intended routes that are not installed.
    pub missing: Vec<String>,
    /// Some of the installed routes that are not intended.
    pub stale: Vec<String>,
    /// What the kernel has refused, while it does.
    pub error: Option<String>,
    /// The host's own addresses inside this site's prefixes.
    pub sources: Vec<IpAddr>,
    /// Local subnets that overlap a prefix of another site.
    pub overlaps: Vec<String>,
}
