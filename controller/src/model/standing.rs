//! Whether an edge is a member of the mesh now.

use cframe_pki::identity::Label;

use super::{State, membership::Membership, record::EdgeRecord, trust::issuer_of};
use crate::sessions::all::Standing;

impl State {
    pub(crate) fn standing(
        &self,
        namespace: &Label,
        name: &Label,
        edge: &EdgeRecord,
        now: u64,
    ) -> Standing {
        let id = || self.edge_id(namespace, name);
        match self.membership(namespace, name, edge) {
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
