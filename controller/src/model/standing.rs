//! Whether an edge is a member of the mesh.

use cframe_pki::identity::Label;
use serde::{Deserialize, Serialize};

use super::{State, record::EdgeRecord, trust::issuer_of};

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

impl Membership {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(super) fn is_new(&self) -> bool {
        *self == Self::New
    }
}

/// [`Membership`], with revoked issuing CAs too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    New,
    Joined,
    Revoked {
        /// Unix seconds; 0 if unknown.
        since: u64,
    },
}

impl State {
    pub(crate) fn standing(
        &self,
        namespace: &Label,
        name: &Label,
        edge: &EdgeRecord,
        now: u64,
    ) -> Standing {
        let id = || self.edge_id(namespace, name);
        match edge.membership {
            Membership::New => Standing::New,
            Membership::Revoked => {
                let serials = self.certs_of.get(&id());
                let denied =
                    serials.into_iter().flatten().filter_map(|serial| self.denied.get(serial));
                let since = denied.map(|denied| denied.record.at).max().unwrap_or(0);
                Standing::Revoked { since }
            }
            Membership::Joined => {
                let revoked = &self.mesh.record.trust.revoked_issuers;
                if revoked.is_empty() {
                    return Standing::Joined;
                }
                let mut certs = self.valid_certs(&id(), now).peekable();
                let cut_off = certs.peek().is_some()
                    && certs.all(|(_, cert)| {
                        issuer_of(self, cert).is_some_and(|issuer| revoked.contains(&issuer))
                    });
                if cut_off { Standing::Revoked { since: 0 } } else { Standing::Joined }
            }
        }
    }
}
