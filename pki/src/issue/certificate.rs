//! CA certificates without their keys.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::{oid_registry::OID_SIG_ECDSA_WITH_SHA256, prelude::X509Certificate};

use crate::{
    CertificateDer, Fingerprint,
    excerpt::excerpt,
    identity::{self, CertificateIdentityError, MeshName, NameError},
    spki::PublicKey,
};

/// A root's or issuing CA's certificate, parsed and checked for its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaCertificate {
    pub der: CertificateDer<'static>,
    pub mesh: MeshName,
    /// The common name, the only attribute of the subject.
    pub subject: String,
    /// Join tokens pin this of a root; a trust bundle revokes an issuing CA by it.
    pub spki: Fingerprint,
    pub not_before: u64,
    /// The last valid second.
    pub not_after: u64,
}

/// Why a certificate, or a certificate with a key, is not a CA of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// It does not parse, or its subject alternative names are not exactly one URI.
    #[error("the CA's certificate: {0}")]
    Certificate(#[from] CertificateIdentityError),
    #[error("the CA's certificate doesn't name a mesh: {0:?} is not spiffe://MESH")]
    Mesh(String),
    #[error("the CA's certificate doesn't name a mesh: {0}")]
    MeshName(#[from] NameError),
    /// It may not sign certificates, or has another path length than this.
    #[error("the certificate is not that of a CA with the path length {0}")]
    NotCa(u32),
    #[error("the subject of the CA's certificate is not one common name")]
    Subject,
    #[error("the CA's private key doesn't belong to its certificate")]
    Key,
}

/// Why a certificate is not a mesh's root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Its signature is not by its own key with ECDSA P-256 and SHA-256.
    #[error("the certificate is not signed by its own ECDSA P-256 key, so it is no root")]
    NotSelfSigned,
}

impl CaCertificate {
    /// Reads a root's certificate: self-signed, with path length 1, as
    /// [`RootCa`](super::RootCa) makes it. The caller checks its validity and its mesh.
    pub fn root(der: &CertificateDer<'_>) -> Result<Self, RootError> {
        let root = Self::read(der, 1)?;
        if root.signs(der) { Ok(root) } else { Err(RootError::NotSelfSigned) }
    }

    /// Reads an issuing CA's certificate, with path length 0. Its signature is not verified.
    pub fn issuing(der: &CertificateDer<'_>) -> Result<Self, CaError> {
        Self::read(der, 0)
    }

    /// Whether this CA's key has signed `certificate`.
    pub fn signs(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(own) = identity::parse_certificate(&self.der) else { return false };
        let Ok(signed) = identity::parse_certificate(certificate) else { return false };
        let Some(key) = PublicKey::from_spki(own.public_key().raw) else { return false };
        signed.issuer().as_raw() == own.subject().as_raw()
            && signed.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256
            && UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.point())
                .verify(signed.tbs_certificate.as_ref(), &signed.signature_value.data)
                .is_ok()
    }

    pub(super) fn read(der: &CertificateDer<'_>, path_len: u32) -> Result<Self, CaError> {
        let parsed = identity::parse_certificate(der)?;
        if !is_ca(&parsed, path_len) {
            return Err(CaError::NotCa(path_len));
        }
        Ok(Self {
            mesh: mesh(&parsed)?,
            subject: common_name(&parsed)?,
            spki: Fingerprint::of_spki(parsed.public_key().raw),
            not_before: identity::seconds(parsed.validity().not_before.timestamp()),
            not_after: identity::seconds(parsed.validity().not_after.timestamp()),
            der: der.clone().into_owned(),
        })
    }
}

/// Whether a certificate may sign others, with exactly this path length.
fn is_ca(certificate: &X509Certificate<'_>, path_len: u32) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten().map(|found| found.value);
    let usage = certificate.key_usage().ok().flatten().map(|found| found.value);
    constraints.is_some_and(|found| found.ca && found.path_len_constraint == Some(path_len))
        && usage.is_some_and(|found| found.key_cert_sign())
}

fn mesh(certificate: &X509Certificate<'_>) -> Result<MeshName, CaError> {
    let uri = identity::only_uri(certificate)?;
    let name = uri.strip_prefix("spiffe://");
    Ok(name.ok_or_else(|| CaError::Mesh(excerpt(uri)))?.parse()?)
}

fn common_name(certificate: &X509Certificate<'_>) -> Result<String, CaError> {
    let subject = certificate.subject();
    let mut names = subject.iter_common_name();
    match (subject.iter_attributes().count(), names.next()) {
        (1, Some(name)) => name.as_str().map(str::to_owned).map_err(|_| CaError::Subject),
        _ => Err(CaError::Subject),
    }
}
