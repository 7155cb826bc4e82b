//! What the certificates of an edge mean for its membership.

use serde::{Deserialize, Serialize};

/// What the certificates that were issued to an edge mean, stored with the edge: other edges get it, so it changes only
/// with the namespace's revision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    /// It has never had a certificate.
    #[default]
    New,
    Joined,
    /// All its certificates are denied.
    Revoked,
}
