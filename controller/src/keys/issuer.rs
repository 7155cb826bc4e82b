//! The issuing CA that signs for this controller.

use std::sync::{Arc, PoisonError, RwLock};

use cframe_pki::{
    CertificateDer, Fingerprint,
    identity::{Label, SpiffeId},
    issue::{CaCertificate, IssuedCertificate, IssuingCa, LEAF_LIFETIME, RootError, VerifiedCsr},
};
use cframe_protocol::v1::{CallError, ErrorCode};
use thiserror::Error;

use crate::model::{
    State,
    record::{CertRecord, IssuerRecord},
};

/// An issuing CA with its key, and the root above it.
#[derive(Debug)]
pub struct Issuer {
    ca: IssuingCa,
    root: CaCertificate,
}

/// The issuing CA in use. Clones share it; it can be replaced while the controller runs.
#[derive(Debug, Clone)]
pub struct LiveIssuer(Arc<RwLock<Arc<Issuer>>>);

#[derive(Debug, Error)]
pub enum IssuerError {
    #[error("the root's certificate: {0}")]
    Root(#[from] RootError),
    #[error("the root {root} has not signed the issuing CA {issuer}")]
    NotBelow { root: Fingerprint, issuer: Fingerprint },
}

/// A signed certificate with the record for the store.
#[derive(Debug)]
pub struct Issued {
    pub certificate: IssuedCertificate,
    pub record: CertRecord,
}

impl Issuer {
    pub fn new(ca: IssuingCa, root: &CertificateDer<'_>) -> Result<Self, IssuerError> {
        let root = CaCertificate::root(root)?;
        if !root.signs(ca.certificate()) {
            return Err(IssuerError::NotBelow { root: root.spki, issuer: ca.spki_sha256() });
        }
        Ok(Self { ca, root })
    }

    pub fn ca(&self) -> &IssuingCa {
        &self.ca
    }

    pub fn root(&self) -> &CaCertificate {
        &self.root
    }

    /// The root's public key, which join tokens pin.
    pub fn pin(&self) -> Fingerprint {
        self.root.spki
    }

    /// The CA's record. `added` stays as it is if the CA is known already.
    pub(crate) fn record(&self, state: &State, controller: &Label, now: u64) -> IssuerRecord {
        let known = state.issuers.get(&self.ca.spki_sha256());
        IssuerRecord {
            controller: controller.clone(),
            root: self.root.spki,
            not_before: self.ca.not_before(),
            not_after: self.ca.not_after(),
            added: known.map_or(now, |known| known.record.added),
            signs: true,
        }
    }

    /// Signs a certificate for the request's key, unless that key is denied.
    pub fn issue(
        &self,
        state: &State,
        csr: &VerifiedCsr,
        id: &SpiffeId,
        now: u64,
    ) -> Result<Issued, CallError> {
        let spki = csr.spki_sha256();
        if state.denied.values().any(|denied| denied.record.entry.spki == spki) {
            return Err(CallError::new(
                ErrorCode::Invalid,
                format!("the public key {spki} was revoked; make a new key and a new request"),
            ));
        }
        let certificate = self.ca.issue(csr, id, LEAF_LIFETIME, now).map_err(|error| {
            tracing::error!(%error, %id, "no certificate was issued");
            CallError::new(ErrorCode::Internal, format!("no certificate for {id}: {error}"))
        })?;
        let record = CertRecord {
            id: id.clone(),
            spki,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            renews: None,
            issuer: Some(self.ca.spki_sha256()),
            bundle: None,
        };
        Ok(Issued { certificate, record })
    }

    /// The certificate and this CA.
    pub fn chain(&self, issued: &IssuedCertificate) -> Vec<CertificateDer<'static>> {
        vec![issued.der.clone(), self.ca.certificate().clone()]
    }

    /// [`chain`](Self::chain) as in replies.
    pub fn wire_chain(&self, issued: &IssuedCertificate) -> Vec<Vec<u8>> {
        self.chain(issued).iter().map(|der| der.to_vec()).collect()
    }
}

impl LiveIssuer {
    pub fn new(issuer: Issuer) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(issuer))))
    }

    pub fn current(&self) -> Arc<Issuer> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, issuer: Arc<Issuer>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = issuer;
    }
}

/// Parses a signing request, and verifies that it is signed by its own key.
pub fn verify_csr(der: &[u8]) -> Result<VerifiedCsr, CallError> {
    VerifiedCsr::from_der(der)
        .map_err(|error| CallError::new(ErrorCode::Invalid, error.to_string()))
}

/// The serial of a chain's first certificate; empty if that cannot be parsed.
pub(crate) fn leaf_serial(chain: &[Vec<u8>]) -> String {
    let leaf = chain.first().map(|der| CertificateDer::from(der.as_slice()));
    let peer = leaf.and_then(|leaf| cframe_pki::verifier::peer_identity(&[leaf]).ok());
    peer.map(|peer| peer.serial.to_string()).unwrap_or_default()
}
