//! Roots and issuing CAs: what they are, and which certificates depend on them.

use std::collections::BTreeSet;

use cframe_pki::{Fingerprint, Serial, issue::CaCertificate};
use cframe_protocol::v1::Lacking;

use super::{
    State,
    record::{CertRecord, IssuerRecord},
};
use crate::sessions::all::AllSessions;

/// The newest certificate of a holder that is neither expired nor denied.
pub(crate) struct CurrentCert<'a> {
    pub(crate) serial: Serial,
    pub(crate) cert: &'a CertRecord,
    /// Its issuing CA, if that was recorded.
    pub(crate) issuer: Option<Fingerprint>,
    /// The root above the issuing CA, if that was recorded.
    pub(crate) root: Option<Fingerprint>,
}

/// One for each holder. Of two certificates that start in the same second, the one that was recorded later counts.
pub(crate) fn current_certs(state: &State, now: u64) -> impl Iterator<Item = CurrentCert<'_>> {
    let recorded = |serial: &Serial| state.certs.get(serial).map(|cert| cert.modified);
    let newest = state.certs_of.keys().filter_map(move |id| {
        let valid = state.valid_certs(id, now);
        valid.max_by_key(|(serial, cert)| (cert.not_before, recorded(serial)))
    });
    newest.map(|(serial, cert)| {
        let issuer = issuer_of(state, cert);
        let root = issuer.and_then(|issuer| Some(state.issuers.get(&issuer)?.record.root));
        CurrentCert { serial, cert, issuer, root }
    })
}

/// A record without an issuing CA is from a time when the mesh had only one.
pub(crate) fn issuer_of(state: &State, cert: &CertRecord) -> Option<Fingerprint> {
    cert.issuer.or_else(|| {
        let first = state.issuers.iter().min_by_key(|(_, issuer)| issuer.record.added);
        first.map(|(spki, _)| *spki)
    })
}

/// The mesh's revision that brought the edges the first of these roots; 0 if it was there from the start.
fn revision_of_first(state: &State, roots: &[Fingerprint]) -> Option<u64> {
    let mesh = &state.mesh.record;
    roots.iter().map(|root| mesh.roots_since.get(root).copied().unwrap_or(0)).min()
}

/// The number of edges with a valid certificate, and those among them that are not known to have any of these
/// roots.
pub(crate) fn edges_lacking_roots(
    state: &State,
    sessions: &AllSessions<'_>,
    roots: &[Fingerprint],
    now: u64,
) -> (usize, Vec<Lacking>) {
    let (mut edges, mut lacking) = (0, Vec::new());
    let (epoch, since) = (state.mesh.record.epoch, revision_of_first(state, roots));
    for (namespace, space) in &state.namespaces {
        for edge in space.edges.keys() {
            let mut valid = state.valid_certs(&state.edge_id(namespace, edge), now).peekable();
            if valid.peek().is_none() {
                continue;
            }
            edges += 1;
            // An edge gets the trust bundle of that moment when it joins.
            let given = valid.filter_map(|(_, cert)| cert.bundle).max();
            let (online, applied) = sessions.applied(namespace, edge);
            let has = match since {
                Some(0) => true,
                Some(since) => {
                    applied.is_some_and(|at| at.epoch == epoch && at.mesh >= since)
                        || given.is_some_and(|given| given >= since)
                }
                None => false,
            };
            if !has {
                let (namespace, edge) = (namespace.clone(), edge.clone());
                lacking.push(Lacking { namespace, edge, online });
            }
        }
    }
    (edges, lacking)
}

/// The trust bundle's roots, in its order. A certificate that is not in this program's form was added by hand, and
/// is left out.
pub(crate) fn roots(state: &State) -> Vec<CaCertificate> {
    let roots = &state.mesh.record.trust.roots;
    roots.iter().filter_map(|der| CaCertificate::root(der).ok()).collect()
}

/// The roots above the issuing CAs in use.
pub(crate) fn signing_roots(state: &State) -> BTreeSet<Fingerprint> {
    signing_issuers(state).map(|issuer| issuer.root).collect()
}

/// The issuing CAs in use: not revoked, and of registered controllers.
pub(crate) fn signing_issuers(state: &State) -> impl Iterator<Item = &IssuerRecord> {
    let revoked = &state.mesh.record.trust.revoked_issuers;
    let unrevoked = state.issuers.iter().filter(|(spki, _)| !revoked.contains(spki));
    let signing = unrevoked.map(|(_, issuer)| &issuer.record).filter(|issuer| issuer.signs);
    signing.filter(|issuer| state.is_controller(&issuer.controller))
}
