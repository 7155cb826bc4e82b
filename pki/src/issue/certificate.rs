//! CA certificates without their keys: what a bundle is checked for before it takes a root.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::{oid_registry::OID_SIG_ECDSA_WITH_SHA256, prelude::X509Certificate};

use super::{
    CaError,
    authority::{common_name, mesh},
};
use crate::{
    CertificateDer, Fingerprint,
    identity::{self, MeshName},
    spki::PublicKey,
};

/// A CA's certificate that was read and found to be of a mesh's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaCertificate {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// The mesh that it names.
    pub mesh: MeshName,
    /// The common name, which is all of its subject.
    pub subject: String,
    /// The public key's fingerprint: what tokens pin of a root, and what revokes an issuing CA.
    pub spki: Fingerprint,
    /// Valid from this Unix second on.
    pub not_before: u64,
    /// Valid up to and with this Unix second.
    pub not_after: u64,
}

/// Why a certificate is not a mesh's root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// It is no CA of a mesh with the path length of a root.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Its key is not on P-256, or it is signed in another way than with that key and SHA-256.
    #[error("the certificate is not signed by its own ECDSA P-256 key: it is no root")]
    NotSelfSigned,
}

impl CaCertificate {
    /// Reads a root's certificate: self-signed, path length 1, as [`RootCa`](super::RootCa) makes it.
    /// Whether it is valid now, and of which mesh, is the caller's to judge.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn root(der: &CertificateDer<'_>) -> Result<Self, RootError> {
        let root = Self::read(der, 1)?;
        if root.signs(der) { Ok(root) } else { Err(RootError::NotSelfSigned) }
    }

    /// Reads an issuing CA's certificate: path length 0. Who has signed it is not looked at.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn issuing(der: &CertificateDer<'_>) -> Result<Self, CaError> {
        Self::read(der, 0)
    }

    /// Whether this CA's key has signed a certificate.
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

    fn read(der: &CertificateDer<'_>, path_len: u32) -> Result<Self, CaError> {
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

/// Whether a certificate is a CA's with exactly this path length, for signing certificates.
pub(super) fn is_ca(certificate: &X509Certificate<'_>, path_len: u32) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten().map(|found| found.value);
    let usage = certificate.key_usage().ok().flatten().map(|found| found.value);
    constraints.is_some_and(|found| found.ca && found.path_len_constraint == Some(path_len))
        && usage.is_some_and(|found| found.key_cert_sign())
}
