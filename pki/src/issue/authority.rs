//! What a root and an issuing CA have in common.

use std::time::Duration;

use rcgen::{CertificateParams, Issuer};

use super::{
    BACKDATE, IssueError,
    certificate::{CaCertificate, CaError},
    params::{self, Validity},
};
use crate::{
    CertificateDer,
    key::{PrivateKey, Signer},
    spki::PublicKey,
};

/// A CA's certificate with its key.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    pub(super) certificate: CaCertificate,
    pub(super) key: PrivateKey,
}

impl Authority {
    pub(super) fn new(
        certificate: &CertificateDer<'_>,
        key: PrivateKey,
        path_len: u32,
    ) -> Result<Self, CaError> {
        let certificate = CaCertificate::read(certificate, path_len)?;
        if certificate.spki != key.spki_sha256() {
            return Err(CaError::Key);
        }
        Ok(Self { certificate, key })
    }

    /// From [`BACKDATE`] before `now` to `lifetime` after it, or to this CA's own end.
    pub(super) fn validity(&self, lifetime: Duration, now: u64) -> Result<Validity, IssueError> {
        let CaCertificate { not_before, not_after, .. } = self.certificate;
        if !(not_before..=not_after).contains(&now) {
            return Err(IssueError::CaNotValid { not_before, not_after, now });
        }
        Ok(Validity {
            not_before: now.saturating_sub(BACKDATE.as_secs()),
            not_after: now.saturating_add(lifetime.as_secs()).min(not_after),
        })
    }

    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        public: &PublicKey,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let mut own = CertificateParams::default();
        own.distinguished_name = params::subject(&self.certificate.subject);
        let issuer = Issuer::new(own, Signer(&self.key));
        let signed = params.signed_by(public, &issuer);
        Ok(signed.map_err(|error| IssueError::Sign(error.to_string()))?.into())
    }
}
