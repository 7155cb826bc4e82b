//! What was measured of forwarding.

use ipnet::IpNet;

/// What came of the last probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardingFacts {
    /// At most one for each device, direction and family.
    pub flows: Vec<Flow>,
    pub port: PortFacts,
    /// Devices by which a part of the site cannot be reached.
    pub dead: Vec<DeadDevice>,
    /// Prefixes of the site that are this host itself: packets for them are not forwarded.
    pub own_addresses: Vec<IpNet>,
    /// What of it cannot be measured, and why.
    pub unmeasured: Option<String>,
}

/// A device of the site without a carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadDevice {
    pub name: String,
    /// It is down, rather than its cable out.
    pub is_down: bool,
}

/// Packets between a device of the site and the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub direction: Direction,
    /// The device's name.
    pub device: String,
    pub v6: bool,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    ToMesh,
    ToSite,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// Nothing of what was tried passes, at least for some addresses.
    Blocked(Finding),
    /// The probes don't pass, and packets of other kinds do.
    Partly(Finding),
    /// The packets arrive with a source that may not pass.
    Masqueraded(Finding),
    /// They would leave in the clear, and the leak guard drops them.
    Guarded,
    /// They don't arrive for a reason that another check reports, such as forwarding that is off.
    Elsewhere,
}

impl Outcome {
    /// How bad it is.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Partly(_) => 1,
            Self::Elsewhere => 2,
            Self::Guarded => 3,
            Self::Masqueraded(_) => 4,
            Self::Blocked(_) => 5,
        }
    }
}

/// What was seen, with the cause if it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A sentence.
    pub text: String,
    pub fix: Option<String>,
}

/// The mesh's own UDP packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortFacts {
    /// A packet of a new flow that does not reach the socket.
    pub new_blocked: Option<Finding>,
    /// A packet of a link that is up does not reach the socket.
    pub link_blocked: Option<Finding>,
    /// Whether a reverse path filter does it.
    pub new_filtered: bool,
    pub link_filtered: bool,
    /// The firewall refuses what the socket sends.
    pub sending_blocked: Option<Finding>,
    /// At least one peer has no link.
    pub link_down: bool,
}

impl ForwardingFacts {
    /// A direction whose packets would leave in the clear.
    pub fn guarded(&self) -> Option<&Flow> {
        self.flows.iter().find(|flow| flow.outcome == Outcome::Guarded)
    }
}

impl Flow {
    /// Such as `eth1 to mesh, IPv4`.
    pub fn name(&self) -> String {
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        match self.direction {
            Direction::ToMesh => format!("{} to mesh, {family}", self.device),
            Direction::ToSite => format!("mesh to {}, {family}", self.device),
        }
    }
}
