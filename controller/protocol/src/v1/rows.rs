//! Rows of list replies.

use std::net::SocketAddr;

use cframe_pki::{
    Fingerprint, Serial,
    identity::{Label, MeshName, SpiffeId},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Endpoint, LinkReport, Settings, Version};

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRow {
    /// Its name.
    pub name: Label,
    /// For people.
    pub description: String,
    /// Its settings.
    pub settings: Settings,
    /// How many edges it has.
    pub edges: u32,
    /// How many routes, without the edges' own site prefixes.
    pub routes: u32,
    /// Its revision.
    pub revision: u64,
}

/// An edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRow {
    /// Its namespace.
    pub namespace: Label,
    /// Its name.
    pub name: Label,
    /// Its site prefixes, without those of routes.
    pub cidrs: Vec<IpNet>,
    /// Where it is dialled.
    pub endpoints: Vec<Endpoint>,
    /// For people.
    pub description: String,
    /// Whether a controller has a session with it.
    pub state: EdgeLiveness,
    /// Version of its software; empty if never seen.
    pub software: String,
    /// Where its last session came from.
    pub address: Option<SocketAddr>,
    /// What it has applied.
    pub applied: Option<Version>,
    /// When its certificate expires.
    pub cert_expires: Option<u64>,
    /// Its links, as it last reported them.
    pub links: Vec<LinkReport>,
}

/// Whether a controller has a session with an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EdgeLiveness {
    /// Not yet.
    NeverSeen,
    /// No longer.
    Offline {
        /// Since then.
        since: u64,
    },
    /// Yes.
    Online {
        /// Since then.
        since: u64,
    },
    /// None that answers; a controller that runs doesn't.
    Unknown,
}

/// A route: a prefix behind an edge besides its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// Its namespace.
    pub namespace: Label,
    /// Its name.
    pub name: Label,
    /// The prefix.
    pub prefix: IpNet,
    /// The edge it is behind.
    pub edge: Label,
}

/// A join token that can still be used. Its secret is not known to the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// Its namespace.
    pub namespace: Label,
    /// The edge that may join with it.
    pub edge: Label,
    /// Its id in hex.
    pub id: String,
    /// When it was made.
    pub created: u64,
    /// When it expires.
    pub expires: u64,
    /// Whether it is for joining again.
    pub rejoin: bool,
    /// The admin who made it.
    pub created_by: String,
}

/// A certificate that a controller issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertRow {
    /// Its serial.
    pub serial: Serial,
    /// Whose it is.
    pub id: SpiffeId,
    /// SHA-256 of its public key (SPKI).
    pub spki: Fingerprint,
    /// Valid from then on.
    pub not_before: u64,
    /// Valid until then.
    pub not_after: u64,
    /// Whether it counts.
    pub state: CertState,
}

/// Whether a certificate counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CertState {
    /// It does.
    Valid,
    /// Its time is over.
    Expired,
    /// It was denied.
    Revoked {
        /// When.
        at: u64,
        /// Why, for people.
        reason: String,
    },
}

/// An admin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRow {
    /// The admin's name.
    pub name: Label,
    /// May look and change nothing.
    pub read_only: bool,
    /// When the certificate expires.
    pub not_after: u64,
}

/// The mesh as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// The mesh's name.
    pub mesh: MeshName,
    /// The controllers that are running.
    pub controllers: Vec<ControllerRow>,
    /// The store's epoch, as in [`Version`].
    pub epoch: u64,
    /// The mesh's revision, as in [`Version`].
    pub mesh_revision: u64,
    /// The namespaces.
    pub namespaces: Vec<NamespaceStatus>,
    /// What is not as it should be, a sentence each.
    pub problems: Vec<String>,
}

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRow {
    /// Its name.
    pub name: Label,
    /// Where it is reached, on its control port.
    pub address: Endpoint,
    /// Version of its software.
    pub software: String,
    /// How long it has been running.
    pub uptime_secs: u64,
    /// Its kind of store and how that is, for people.
    pub store: String,
}

/// How a namespace is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    /// Its name.
    pub name: Label,
    /// How many edges it has.
    pub edges: u32,
    /// These have a session.
    pub online: u32,
    /// These have applied the newest version.
    pub in_sync: u32,
    /// Links that are up; a link counts once.
    pub links_up: u32,
    /// Links that there should be.
    pub links_expected: u32,
    /// Its revision.
    pub revision: u64,
}

/// A controller of the mesh, whether it runs or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationRow {
    /// Its name.
    pub name: Label,
    /// Where it is reached, on its control port.
    pub addresses: Vec<Endpoint>,
    /// When it was added.
    pub added: u64,
    /// SHA-256 of its issuing CA's public key (SPKI).
    pub issuer: Fingerprint,
    /// When its issuing CA expires.
    pub issuer_expires: u64,
    /// What it says of itself while it runs.
    pub running: Option<Running>,
}

/// What a controller says of itself while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Version of its software.
    pub software: String,
    /// Since when it runs.
    pub since: u64,
}

/// An edge's session with one controller, or its last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The edge's namespace.
    pub namespace: Label,
    /// The edge's name.
    pub edge: Label,
    /// Whether it stands.
    pub online: bool,
    /// Since when it stands, or doesn't.
    pub since: u64,
    /// Version of the edge's software.
    pub software: String,
    /// Where it came from.
    pub address: SocketAddr,
    /// What the edge has applied.
    pub applied: Option<Version>,
    /// Its links, as it last reported them.
    pub links: Vec<LinkReport>,
}
