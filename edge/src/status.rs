//! What `status` shows. The JSON is stable: fields are added, never renamed or removed.

mod table;

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr};

use serde::{Deserialize, Serialize};

pub use table::render;

/// An edge as it sees itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The instance.
    pub instance: String,
    /// Its SPIFFE ID.
    pub id: String,
    /// The version of this program.
    pub software: String,
    /// The process.
    pub pid: u32,
    /// Since its start, in seconds.
    pub uptime_secs: u64,
    /// The host's clock, in Unix seconds.
    pub clock: u64,
    /// The UDP port of links.
    pub listen: u16,
    /// Desired state.
    pub state: StateStatus,
    /// The session with a controller.
    pub controller: ControllerStatus,
    /// Our certificate.
    pub certificate: CertificateStatus,
    /// The TUN device.
    pub device: DeviceStatus,
    /// Links to all peers, by name.
    pub links: Vec<LinkStatus>,
    /// Routes in the kernel.
    pub routes: RouteStatus,
    /// Packets that went no further, by reason, without those that never happened.
    pub drops: BTreeMap<String, u64>,
    /// Inner packets.
    pub traffic: Traffic,
    /// What is not as it should be, a sentence each.
    pub problems: Vec<String>,
}

/// Desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateStatus {
    /// The applied version; none before the first.
    pub version: Option<String>,
    /// How long ago a controller last confirmed it, in seconds; 0 while connected.
    pub age_secs: Option<u64>,
    /// Own prefixes.
    pub own: Vec<String>,
    /// How many prefixes of others.
    pub foreign: usize,
    /// Why a controller has cut the edge off from the mesh, if one has.
    pub cut: Option<String>,
    /// When it said so, in Unix seconds.
    #[serde(default)]
    pub cut_at: Option<u64>,
}

/// The session with a controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerStatus {
    /// The controller's address, while there is a session.
    pub connected: Option<SocketAddr>,
    /// How long there has been a session, or none, in seconds.
    pub since_secs: u64,
    /// Why there is none.
    pub error: Option<String>,
    /// Where controllers are looked for.
    pub addresses: Vec<String>,
}

/// Our certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Its serial.
    pub serial: String,
    /// Valid from this Unix second on.
    pub not_before: u64,
    /// Valid until this Unix second.
    pub not_after: u64,
    /// Whole days until then; negative afterwards.
    pub days_left: i64,
    /// When it is renewed, in Unix seconds.
    pub renew_at: u64,
    /// Why the last renewal failed.
    pub renewal_error: Option<String>,
}

/// The TUN device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Whether it is there.
    pub present: bool,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The edge at the other end.
    pub peer: String,
    /// Whether it carries traffic.
    pub up: bool,
    /// For how long it has been up or down, in seconds.
    pub since_secs: u64,
    /// The peer's address.
    pub remote: Option<SocketAddr>,
    /// Where it can be dialled, resolved.
    pub addresses: Vec<SocketAddr>,
    /// Whether we dialled it.
    pub dialed: bool,
    /// Round trip in microseconds.
    pub rtt_us: u64,
    /// The largest UDP payload that the path carries.
    pub path_mtu: u16,
    /// The largest inner packet that goes whole; larger ones go in fragments.
    pub largest_inner: usize,
    /// How often the path was taken to have become too small for that, and fell to the least.
    pub black_holes: u64,
    /// The share of outer packets that were lost, 0 to 1.
    pub loss: f64,
    /// Inner packets.
    pub traffic: Traffic,
    /// Why it went down, or was refused, last.
    pub reason: Option<String>,
}

/// Inner packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// To links.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// From links.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

/// Routes in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The routing table.
    pub table: u32,
    /// The mark of underlay packets.
    pub mark: u32,
    /// How many there should be.
    pub intended: usize,
    /// How many of them there are.
    pub installed: usize,
    /// Some that are missing.
    pub missing: Vec<String>,
    /// Some that shouldn't be there.
    pub stale: Vec<String>,
    /// What the kernel refused.
    pub problem: Option<String>,
    /// The host's own addresses in its site.
    pub sources: Vec<IpAddr>,
    /// Local subnets that meet another site's prefix.
    pub overlaps: Vec<String>,
}
