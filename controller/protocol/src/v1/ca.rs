//! How the mesh's CAs are, and what hangs on each.

use cframe_pki::{
    Fingerprint, Serial,
    identity::{Label, SpiffeId},
};
use serde::{Deserialize, Serialize};

/// The roots, the issuing CAs, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// The roots of the trust bundle, at most [`MAX_ROOTS`](Self::MAX_ROOTS), in the order of its making.
    pub roots: Vec<RootRow>,
    /// Issuing CAs of controllers, those that sign no more too, until they expire.
    pub issuers: Vec<IssuerRow>,
    /// What to do next, a sentence.
    pub next: String,
}

impl CaStatus {
    /// Roots that a bundle may have.
    pub const MAX_ROOTS: usize = 4;
    /// Edges that [`RootRow::lacking`] names.
    pub const MAX_LACKING: usize = 50;
}

/// A root of the trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRow {
    /// SHA-256 of its public key (SPKI): what join tokens pin.
    pub fingerprint: Fingerprint,
    /// Its common name.
    pub subject: String,
    /// Valid until then.
    pub not_after: u64,
    /// The certificate in DER.
    pub certificate: Vec<u8>,
    /// A controller signs under it.
    pub signs: bool,
    /// Since this revision of the mesh it is in the bundle; 0 is from the beginning.
    pub revision: u64,
    /// So many of the enrolled edges have it, …
    pub have: u32,
    /// … of so many.
    pub edges: u32,
    /// Some of those that are not known to have it.
    pub lacking: Vec<Lacking>,
    /// What hangs on it.
    pub certs: CertCounts,
}

/// An edge that is not known to have a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lacking {
    /// Its namespace.
    pub namespace: Label,
    /// Its name.
    pub edge: Label,
    /// It has a session, so that it will have the root in a moment.
    pub online: bool,
}

/// An issuing CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRow {
    /// SHA-256 of its public key (SPKI).
    pub fingerprint: Fingerprint,
    /// Whose it is.
    pub controller: Label,
    /// The root it is under, by that one's public key.
    pub root: Fingerprint,
    /// Valid until then.
    pub not_after: u64,
    /// Its controller signs with it.
    pub signs: bool,
    /// It was revoked.
    pub revoked: bool,
    /// What hangs on it.
    pub certs: CertCounts,
}

/// Certificates that are neither expired nor denied. The first three count participants whose newest one
/// it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertCounts {
    /// Edges.
    pub edges: u32,
    /// Controllers.
    pub controllers: u32,
    /// Admins.
    pub admins: u32,
    /// All certificates, also those that a newer one has taken the place of.
    pub valid: u32,
}

/// A participant whose newest valid certificate is under a CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRow {
    /// Who.
    pub id: SpiffeId,
    /// The certificate.
    pub serial: Serial,
    /// When it expires.
    pub not_after: u64,
    /// An edge that has a session.
    pub online: bool,
}
