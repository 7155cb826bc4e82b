//! The desired state of one edge, and its changes.

use std::collections::{BTreeMap, BTreeSet};

use cframe_pki::{
    bundle::{DenyEntry, TrustBundle},
    identity::Label,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Endpoint, Version};
use crate::frame::message;

/// Settings of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// Bytes, 1280 to 1500.
    pub tun_mtu: u16,
    pub congestion: Congestion,
}

/// Congestion control of links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Congestion {
    /// None of the tunnel's own. The inner flows do theirs.
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

/// The whole state that one edge needs, at one version. The default is the empty state, which
/// snapshots are built on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    pub version: Version,
    pub settings: Settings,
    pub trust: TrustBundle,
    pub denied: BTreeSet<DenyEntry>,
    /// On their control port.
    pub controllers: BTreeSet<Endpoint>,
    /// All edges of the namespace, including this one.
    pub edges: BTreeMap<Label, EdgeState>,
    /// All site prefixes of the namespace, including this edge's own, with the edge that each is behind.
    /// Prefixes of different edges don't overlap, and host bits are zero.
    pub prefixes: BTreeMap<IpNet, Label>,
}

/// What other edges need to know of an edge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeState {
    /// In order of preference. An edge without endpoints is not dialled; it dials others.
    pub endpoints: Vec<Endpoint>,
    /// Whether a gateway has joined as this edge. False again once all its certificates are revoked. No link to an edge
    /// that has not joined is expected.
    #[serde(default = "yes")]
    pub joined: bool,
}

/// States on disk that were saved before the field was there.
fn yes() -> bool {
    true
}

/// One step from one [`Desired`] to another. It sets or removes one thing whatever its previous value,
/// so that a later change of the same thing replaces an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Settings(Settings),
    Trust(TrustBundle),
    /// Replaces all controllers.
    Controllers(BTreeSet<Endpoint>),
    /// Adds an entry to the deny-list.
    Denied(DenyEntry),
    /// Removes an entry, whose certificate has expired.
    NotDenied(DenyEntry),
    /// Adds an edge, or replaces its state.
    Edge {
        name: Label,
        state: EdgeState,
    },
    EdgeGone {
        name: Label,
    },
    /// Adds a prefix, or moves it to another edge.
    Prefix {
        net: IpNet,
        owner: Label,
    },
    PrefixGone {
        net: IpNet,
    },
}

/// Controller → edge: a piece of a delta or snapshot. The edge applies nothing before the last piece
/// has arrived, and acknowledges the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The version that the changes apply to; `None` is the empty state. Equal in all pieces.
    pub from: Option<Version>,
    /// The version after the last piece. Equal in all pieces.
    pub to: Version,
    pub changes: Vec<Change>,
    pub last: bool,
}

message!(Update = 2);
