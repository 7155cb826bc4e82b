//! Status of the mesh's CAs.

use cframe_pki::{
    Fingerprint, Serial,
    identity::{Label, SpiffeId},
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// The trust bundle's, in its order, at most [`MAX_ROOTS`](Self::MAX_ROOTS).
    pub roots: Vec<RootRow>,
    /// All that have not expired, also those that don't sign any more.
    pub issuers: Vec<IssuerRow>,
    /// One sentence on what to do next.
    pub next: String,
}

impl CaStatus {
    pub const MAX_ROOTS: usize = 4;
    /// Of [`RootRow::lacking`].
    pub const MAX_LACKING: usize = 50;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRow {
    /// SHA-256 of its SPKI, which join tokens pin.
    pub fingerprint: Fingerprint,
    pub subject: String,
    pub not_after: u64,
    /// In DER.
    pub certificate: Vec<u8>,
    /// Whether a controller's signing CA is under it.
    pub signs: bool,
    /// The mesh's revision that added it; 0 if it is the first root.
    pub revision: u64,
    /// How many enrolled edges are known to have it in their bundle.
    pub have: u32,
    /// How many edges are enrolled.
    pub edges: u32,
    /// Some of the edges that are not known to have it.
    pub lacking: Vec<Lacking>,
    /// Certificates that depend on it.
    pub certs: CertCounts,
}

/// An edge that is not known to have a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lacking {
    pub namespace: Label,
    pub edge: Label,
    /// It has a session and so should get the root within seconds.
    pub online: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRow {
    /// SHA-256 of its SPKI.
    pub fingerprint: Fingerprint,
    pub controller: Label,
    /// SHA-256 of its root's SPKI.
    pub root: Fingerprint,
    pub not_after: u64,
    /// Whether its controller signs with it now.
    pub signs: bool,
    pub revoked: bool,
    /// Certificates that depend on it.
    pub certs: CertCounts,
}

/// Numbers of certificates that are neither expired nor revoked. The first three count participants
/// by their newest certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertCounts {
    pub edges: u32,
    pub controllers: u32,
    pub admins: u32,
    /// All certificates, also those of participants that have a newer one.
    pub valid: u32,
}

/// A participant whose newest valid certificate depends on a CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRow {
    pub id: SpiffeId,
    pub serial: Serial,
    pub not_after: u64,
    /// Whether it is an edge with a session.
    pub online: bool,
}
