//! Rows of lists, and the status of the mesh.

use std::net::SocketAddr;

use cframe_pki::{
    Fingerprint, Serial,
    identity::{Label, MeshName, SpiffeId},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Endpoint, LinkReport, Problems, Settings, Version};
use crate::problem::Severity;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRow {
    pub name: Label,
    pub description: String,
    pub settings: Settings,
    pub edges: u32,
    /// Without the edges' own site prefixes.
    pub routes: u32,
    pub revision: u64,
}

// fields: one for each column of `edge list`, and the lists of `edge show`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRow {
    pub namespace: Label,
    pub name: Label,
    /// Its own site prefixes, without routes.
    pub cidrs: Vec<IpNet>,
    pub endpoints: Vec<Endpoint>,
    pub description: String,
    pub state: EdgeLiveness,
    /// Version of its software; empty if it has never had a session.
    pub software: String,
    /// Of its current or last session.
    pub address: Option<SocketAddr>,
    pub applied: Option<Version>,
    pub cert_expires: Option<u64>,
    /// From its last report.
    pub links: Vec<LinkReport>,
    /// Edges that it needs no link to.
    pub no_link_to: Vec<Label>,
    /// What it reports and what controllers know; empty in a list.
    pub problems: Problems,
}

/// Whether a controller has a session with an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EdgeLiveness {
    NeverSeen,
    Offline {
        since: u64,
    },
    Online {
        since: u64,
    },
    /// No controller that answers has a session with it, and a running one doesn't answer.
    Unknown,
    /// All its certificates are revoked.
    Revoked {
        since: u64,
    },
}

/// A prefix behind an edge in addition to the edge's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    pub namespace: Label,
    pub name: Label,
    pub prefix: IpNet,
    pub edge: Label,
}

/// A join token that is unused and valid. The controller doesn't know its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    pub namespace: Label,
    pub edge: Label,
    /// In hex.
    pub id: String,
    pub created: u64,
    pub expires: u64,
    /// For an edge that has joined before.
    pub rejoin: bool,
    pub created_by: String,
}

/// A certificate that a controller issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertRow {
    pub serial: Serial,
    pub id: SpiffeId,
    /// SHA-256 of its SPKI.
    pub spki: Fingerprint,
    pub not_before: u64,
    pub not_after: u64,
    pub state: CertState,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CertState {
    Valid,
    Expired,
    Revoked { at: u64, reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRow {
    pub name: Label,
    pub read_only: bool,
    pub not_after: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshStatus {
    pub mesh: MeshName,
    /// The running ones.
    pub controllers: Vec<ControllerRow>,
    /// The store's epoch, as in [`Version`].
    pub epoch: u64,
    /// The mesh's revision, as in [`Version`].
    pub mesh_revision: u64,
    pub namespaces: Vec<NamespaceStatus>,
    /// Errors first, one group for each code.
    pub problems: Vec<ProblemGroup>,
}

/// All problems with one code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemGroup {
    /// The name of a [`Code`](crate::problem::Code), or a code of a later version.
    pub code: Label,
    pub severity: Severity,
    /// A heading for this number of problems.
    pub title: String,
    pub count: u32,
    /// The first in natural order, at most [`ProblemGroup::MAX_EXAMPLES`].
    pub examples: Vec<ProblemExample>,
}

impl ProblemGroup {
    pub const MAX_EXAMPLES: usize = 5;
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProblemExample {
    /// Where it is: `prod/aws-hk` for an edge, otherwise the name of a controller, or empty.
    pub subject: String,
    /// A peer, prefix or device, or empty.
    pub about: String,
    /// One sentence.
    pub text: String,
    pub fix: Option<String>,
    /// When it started, if that is known.
    pub since_unix: Option<u64>,
}

/// A running controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRow {
    pub name: Label,
    /// On its control port.
    pub address: Endpoint,
    pub software: String,
    pub uptime_secs: u64,
    /// Kind and condition of its store, as text.
    pub store: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    pub name: Label,
    pub edges: u32,
    /// Edges with a session.
    pub online: u32,
    /// Edges that have applied the newest version.
    pub in_sync: u32,
    /// Each link counts once.
    pub links_up: u32,
    pub links_expected: u32,
    pub revision: u64,
}

/// A registered controller, running or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationRow {
    pub name: Label,
    /// On its control port.
    pub addresses: Vec<Endpoint>,
    pub added: u64,
    /// SHA-256 of its issuing CA's SPKI.
    pub issuer: Fingerprint,
    pub issuer_expires: u64,
    pub running: Option<Running>,
}

/// What a running controller publishes in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub software: String,
    pub since: u64,
}

/// An edge's current or last session with one controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    pub namespace: Label,
    pub edge: Label,
    pub online: bool,
    /// When `online` last changed.
    pub since: u64,
    pub software: String,
    pub address: SocketAddr,
    pub applied: Option<Version>,
    /// From its last report.
    pub links: Vec<LinkReport>,
    pub problems: Problems,
    pub detail: SessionDetail,
}

/// What controllers judge an edge's session by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDetail {
    /// From the edge's [`EdgeHello`](super::EdgeHello).
    pub boot: [u8; 16],
    /// When `applied` was last set.
    pub applied_since: u64,
    /// When the update was sent that the edge has not acknowledged.
    pub unacked_since: Option<u64>,
    /// Another host that uses the same identity.
    pub rival: Option<Rival>,
}

/// A host that was refused because another one with the same identity has the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rival {
    pub address: SocketAddr,
    /// When it tried last.
    pub at: u64,
}
