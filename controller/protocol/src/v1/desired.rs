//! What one edge needs to know, and how it changes.

use std::collections::{BTreeMap, BTreeSet};

use cframe_pki::{
    bundle::{DenyEntry, TrustBundle},
    identity::Label,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Endpoint, Version};
use crate::frame::message;

/// What the edges of a namespace have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// MTU of the TUN devices in bytes, 1280 to 1500.
    pub tun_mtu: u16,
    /// How links share the underlay with others.
    pub congestion: Congestion,
}

/// Congestion control of links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Congestion {
    /// None of the tunnel's own: the inner flows have theirs.
    #[default]
    Transparent,
    /// BBR for the tunnel as a whole.
    Bbr,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tun_mtu: 1400, congestion: Congestion::default() }
    }
}

/// The whole state that one edge needs, at one version. The default is the empty state, from which
/// every snapshot starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Which state this is.
    pub version: Version,
    /// The namespace's settings.
    pub settings: Settings,
    /// Whose certificates count.
    pub trust: TrustBundle,
    /// Which of them don't after all.
    pub denied: BTreeSet<DenyEntry>,
    /// Where controllers are reached, on their control port.
    pub controllers: BTreeSet<Endpoint>,
    /// All edges of the namespace, the edge itself among them.
    pub edges: BTreeMap<Label, EdgeState>,
    /// All site prefixes of the namespace with the edge that each is behind, the edge's own among
    /// them. No two of different edges overlap, and host bits are zero.
    pub prefixes: BTreeMap<IpNet, Label>,
}

/// An edge as others need to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeState {
    /// Where the edge is dialled, in order of preference. Empty: it dials, nobody dials it.
    pub endpoints: Vec<Endpoint>,
}

/// One step from one [`Desired`] to another. Each sets or removes one thing whatever was there
/// before, so that a later change of the same thing replaces an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// New settings.
    Settings(Settings),
    /// A new trust bundle.
    Trust(TrustBundle),
    /// All controllers.
    Controllers(BTreeSet<Endpoint>),
    /// One more denial.
    Denied(DenyEntry),
    /// One denial less: what it denied has expired.
    NotDenied(DenyEntry),
    /// An edge is new, or is reached elsewhere.
    Edge {
        /// Its name.
        name: Label,
        /// Its new state.
        state: EdgeState,
    },
    /// An edge is gone.
    EdgeGone {
        /// Its name.
        name: Label,
    },
    /// A prefix is new, or has moved to another edge.
    Prefix {
        /// The prefix.
        net: IpNet,
        /// The edge it is behind.
        owner: Label,
    },
    /// A prefix is gone.
    PrefixGone {
        /// The prefix.
        net: IpNet,
    },
}

/// Controller → edge: a piece of the way from one state to another. The edge applies nothing before
/// the last piece has arrived, and acknowledges it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The state that the changes are for; `None` is the empty state. All pieces say the same.
    pub from: Option<Version>,
    /// The version after the last piece. All pieces say the same.
    pub to: Version,
    /// What changes.
    pub changes: Vec<Change>,
    /// Whether this is the last piece.
    pub last: bool,
}

message!(Update = 2);
