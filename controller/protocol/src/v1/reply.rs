//! Answers of a controller to admins and other controllers.

mod split;

use std::fmt;

use cframe_pki::{
    bundle::TrustBundle,
    identity::{Label, MeshName},
};
use serde::{Deserialize, Serialize};

use super::{
    AdminRow, AuditRow, CaStatus, CallError, CertRow, EdgeRow, Endpoint, Enrolled, HolderRow,
    MeshStatus, NamespaceRow, RegistrationRow, RouteRow, SessionRow, TokenRow, Version,
};
use crate::frame::message;

/// Controller → admin: one or more frames. The end of the stream is the end of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminReply {
    /// Nothing follows an error.
    pub result: Result<Reply, CallError>,
}

/// One piece of an answer. A list may come in several pieces: see [`Reply::split`] and
/// [`Reply::merge`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Changed(Changed),
    Namespaces(Vec<NamespaceRow>),
    /// Consecutive rows of one edge are one row with the links of all.
    Edges(Vec<EdgeRow>),
    Routes(Vec<RouteRow>),
    Tokens(Vec<TokenRow>),
    Certs(Vec<CertRow>),
    Admins(Vec<AdminRow>),
    Status(MeshStatus),
    TokenMade(TokenMade),
    Enrolled(Enrolled),
    AdminEnrolled(AdminEnrolled),
    Trust(TrustBundle),
    Progress(Progress),
    /// A part of a backup.
    Chunk(Vec<u8>),
    Version {
        software: String,
        /// [`PROTOCOL`](super::PROTOCOL).
        protocol: u16,
    },
    Audit(Vec<AuditRow>),
    Controllers(Vec<RegistrationRow>),
    /// Consecutive rows of one edge are one row with the links of all.
    Sessions(Vec<SessionRow>),
    Behind(Behind),
    /// Running controllers that don't answer, so that the versions of their edges are unknown. The next
    /// such reply replaces this one.
    Unheard(Vec<Label>),
    Ca(CaStatus),
    Holders(Vec<HolderRow>),
}

/// The result of a write, or with `dry_run` of one that was not made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The version that contains the write. `namespace` is 0 if it concerns no namespace.
    pub version: Version,
    /// One sentence each.
    pub warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMade {
    /// `cfj1.…`. Secret.
    pub token: String,
    /// In hex, for listing and revoking it.
    pub id: String,
    pub expires: u64,
}

impl fmt::Debug for TokenMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenMade")
            .field("id", &self.id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// A new admin certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminEnrolled {
    pub mesh: MeshName,
    pub name: Label,
    pub read_only: bool,
    /// In DER: the leaf, then its issuing CA.
    pub chain: Vec<Vec<u8>>,
    pub trust: TrustBundle,
    /// On their control port.
    pub controllers: Vec<Endpoint>,
}

/// How many connected edges of a namespace have applied a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub acked: u32,
    /// Connected edges.
    pub total: u32,
    /// Some of those that have not applied it.
    pub waiting: Vec<Label>,
}

/// Which of the edges of a namespace that are connected to one controller have not applied a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Edges that are connected, or were a moment ago.
    pub total: u32,
    pub behind: u32,
    /// At most [`Behind::MAX_NAMES`].
    pub names: Vec<Label>,
}

impl Behind {
    pub const MAX_NAMES: usize = 256;
}

message!(AdminReply = 41);
