//! What the certificates of an edge mean for its membership.

use cframe_pki::identity::Label;
use serde::{Deserialize, Serialize};

use super::{State, record::EdgeRecord};

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

impl State {
    /// The membership that is stored, or that the certificates show if none is.
    pub(crate) fn membership(
        &self,
        namespace: &Label,
        name: &Label,
        edge: &EdgeRecord,
    ) -> Membership {
        if let Some(stored) = edge.membership {
            return stored;
        }
        let serials = self.certs_of.get(&self.edge_id(namespace, name));
        let mut serials = serials.into_iter().flatten().peekable();
        if serials.peek().is_none() {
            return Membership::New;
        }
        if serials.all(|serial| self.denied.contains_key(serial)) {
            Membership::Revoked
        } else {
            Membership::Joined
        }
    }
}
