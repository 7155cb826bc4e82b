//! What a root and an issuing CA have in common.

use std::time::Duration;

use rcgen::{CertificateParams, Issuer};
use x509_parser::prelude::X509Certificate;

use super::{BACKDATE, IssueError, certificate::is_ca, params, params::Validity};
use crate::{
    CertificateDer,
    identity::{self, CertificateIdentityError, MeshName, NameError},
    key::{PrivateKey, Signer},
    spki::PublicKey,
};

/// A certificate that may sign others, with its key.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKey,
    pub(super) mesh: MeshName,
    pub(super) common_name: String,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

/// A certificate and a key that don't make a CA.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// The certificate doesn't parse, or has another set of names than one URI.
    #[error("the CA's certificate: {0}")]
    Certificate(#[from] CertificateIdentityError),
    /// Its URI is not that of a trust domain.
    #[error("the CA's certificate doesn't name a mesh: {0:?} is not spiffe://MESH")]
    Mesh(String),
    /// The mesh's name breaks its rule.
    #[error("the CA's certificate doesn't name a mesh: {0}")]
    MeshName(#[from] NameError),
    /// Not a CA, or with another path length.
    #[error("the certificate is not that of a CA with the path length {0}")]
    NotCa(u32),
    /// Its subject is not one common name.
    #[error("the CA's certificate has another subject than one common name")]
    Subject,
    /// The key is another's.
    #[error("the CA's private key doesn't belong to its certificate")]
    Key,
}

impl Authority {
    pub(super) fn new(
        certificate: CertificateDer<'static>,
        key: PrivateKey,
        path_len: u32,
    ) -> Result<Self, CaError> {
        let parsed = identity::parse_certificate(&certificate)?;
        if !is_ca(&parsed, path_len) {
            return Err(CaError::NotCa(path_len));
        }
        if PublicKey::from_spki(parsed.public_key().raw).as_ref() != Some(key.public()) {
            return Err(CaError::Key);
        }
        let (mesh, common_name) = (mesh(&parsed)?, common_name(&parsed)?);
        let not_before = identity::seconds(parsed.validity().not_before.timestamp());
        let not_after = identity::seconds(parsed.validity().not_after.timestamp());
        Ok(Self { certificate, key, mesh, common_name, not_before, not_after })
    }

    /// From [`BACKDATE`] before `now` to `lifetime` after it, or to this CA's own end.
    pub(super) fn validity(&self, lifetime: Duration, now: u64) -> Result<Validity, IssueError> {
        if !(self.not_before..=self.not_after).contains(&now) {
            return Err(IssueError::CaNotValid {
                not_before: self.not_before,
                not_after: self.not_after,
                now,
            });
        }
        Ok(Validity {
            not_before: now.saturating_sub(BACKDATE.as_secs()),
            not_after: now.saturating_add(lifetime.as_secs()).min(self.not_after),
        })
    }

    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        public: &PublicKey,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let mut own = CertificateParams::default();
        own.distinguished_name = params::subject(&self.common_name);
        let issuer = Issuer::new(own, Signer(&self.key));
        let signed = params.signed_by(public, &issuer);
        Ok(signed.map_err(|error| IssueError::Sign(error.to_string()))?.into())
    }
}

pub(super) fn mesh(certificate: &X509Certificate<'_>) -> Result<MeshName, CaError> {
    let uri = identity::only_uri(certificate)?;
    let name = uri.strip_prefix("spiffe://");
    Ok(name.ok_or_else(|| CaError::Mesh(identity::excerpt(uri)))?.parse()?)
}

pub(super) fn common_name(certificate: &X509Certificate<'_>) -> Result<String, CaError> {
    let subject = certificate.subject();
    let mut names = subject.iter_common_name();
    match (subject.iter_attributes().count(), names.next()) {
        (1, Some(name)) => name.as_str().map(str::to_owned).map_err(|_| CaError::Subject),
        _ => Err(CaError::Subject),
    }
}
