//! What a controller answers to an admin.

mod split;

use std::fmt;

use cframe_pki::{
    bundle::TrustBundle,
    identity::{Label, MeshName},
};
use serde::{Deserialize, Serialize};

use super::{
    AdminRow, AuditRow, CaStatus, CertRow, EdgeRow, Endpoint, Enrolled, HolderRow, MeshStatus,
    NamespaceRow, RegistrationRow, RouteRow, SessionRow, TokenRow, Version,
};
use crate::frame::message;

/// Controller → admin: one or more on a stream, whose end is the answer's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminReply {
    /// A piece of the answer. After an error nothing follows.
    pub result: Result<Reply, CallError>,
}

/// One piece of an answer. Lists come in several and belong together: see [`Reply::split`] and
/// [`Reply::merge`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// A write is done.
    Changed(Changed),
    /// Namespaces.
    Namespaces(Vec<NamespaceRow>),
    /// Edges. Two rows of one edge in a row are one, with the links of both.
    Edges(Vec<EdgeRow>),
    /// Routes.
    Routes(Vec<RouteRow>),
    /// Tokens.
    Tokens(Vec<TokenRow>),
    /// Certificates.
    Certs(Vec<CertRow>),
    /// Admins.
    Admins(Vec<AdminRow>),
    /// The mesh as a whole.
    Status(MeshStatus),
    /// A join token, shown this once.
    TokenMade(TokenMade),
    /// An edge's certificate.
    Enrolled(Enrolled),
    /// An admin's certificate.
    AdminEnrolled(AdminEnrolled),
    /// The trust bundle.
    Trust(TrustBundle),
    /// How far a wait has come.
    Progress(Progress),
    /// Bytes of a backup.
    Chunk(Vec<u8>),
    /// The controller's software.
    Version {
        /// Its version, for people.
        software: String,
        /// [`PROTOCOL`](super::PROTOCOL).
        protocol: u16,
    },
    /// Records of the audit log.
    Audit(Vec<AuditRow>),
    /// Controllers.
    Controllers(Vec<RegistrationRow>),
    /// Sessions of edges. Two rows of one edge in a row are one, with the links of both.
    Sessions(Vec<SessionRow>),
    /// Which edges lack a version.
    Behind(Behind),
    /// Controllers that run and do not answer, so that what their edges have is not known. The next such
    /// reply replaces it.
    Unheard(Vec<Label>),
    /// The CAs.
    Ca(CaStatus),
    /// Those who hang on a CA.
    Holders(Vec<HolderRow>),
}

/// A write is done, or with `dry_run` would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The version that has it. `namespace` is 0 if no namespace is concerned.
    pub version: Version,
    /// What is allowed and yet worth a second look, a sentence each.
    pub warnings: Vec<String>,
}

/// A new join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMade {
    /// The token itself, `cfj1.…`: a secret.
    pub token: String,
    /// Its id in hex, by which it is listed and revoked.
    pub id: String,
    /// When it expires.
    pub expires: u64,
}

impl fmt::Debug for TokenMade {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenMade")
            .field("id", &self.id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What an admin gets with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminEnrolled {
    /// The mesh's name.
    pub mesh: MeshName,
    /// The admin's name.
    pub name: Label,
    /// May look and change nothing.
    pub read_only: bool,
    /// Certificates in DER: the leaf, then its issuing CA.
    pub chain: Vec<Vec<u8>>,
    /// Whose certificates count.
    pub trust: TrustBundle,
    /// Where controllers are reached, on their control port.
    pub controllers: Vec<Endpoint>,
}

/// How many of a namespace's connected edges have a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// These have it.
    pub acked: u32,
    /// These are connected.
    pub total: u32,
    /// Some of those that are awaited.
    pub waiting: Vec<Label>,
}

/// Which of a namespace's edges that are connected to one controller lack a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// These are connected, or have been a moment ago.
    pub total: u32,
    /// Of these, how many lack it.
    pub behind: u32,
    /// Their names, at most [`Behind::MAX_NAMES`].
    pub names: Vec<Label>,
}

impl Behind {
    /// More names than these are left out.
    pub const MAX_NAMES: usize = 256;
}

/// Why a call was not done. In text: the message, and the hint after a semicolon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// Which kind.
    pub code: ErrorCode,
    /// What is wrong, with what value, and what to do next.
    pub message: String,
    /// A suggestion, such as `did you mean aws-hk?`.
    pub hint: Option<String>,
}

/// Kinds of [`CallError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    /// A value breaks a rule.
    Invalid,
    /// No such thing.
    NotFound,
    /// It is there already, or clashes with something that is.
    Conflict,
    /// The caller may not.
    NotAllowed,
    /// Not at the moment; the store has no leader, for one.
    Unavailable,
    /// The store's disk is full.
    StoreFull,
    /// A fault of the controller; its log has more.
    Internal,
}

impl CallError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CallError {}

message!(AdminReply = 41);
