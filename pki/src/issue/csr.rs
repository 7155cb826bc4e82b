//! Signing requests: a public key, and the proof that the requester has the private one.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest, oid_registry::OID_SIG_ECDSA_WITH_SHA256,
    prelude::FromDer,
};

use crate::{Fingerprint, spki::PublicKey};

/// Bytes of DER. Requests of [`PrivateKey::csr`](crate::key::PrivateKey::csr) have about 200.
const MAX_LEN: usize = 4096;

/// The public key of a signing request whose signature has been verified. The request's names
/// and extensions are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCsr(PublicKey);

/// Why a signing request is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("no PEM block CERTIFICATE REQUEST found")]
    Pem,
    #[error("the signing request has {0} bytes, more than {MAX_LEN}")]
    Large(usize),
    #[error("the signing request is malformed: {0}")]
    Malformed(String),
    #[error(
        "the signing request's key is not an uncompressed ECDSA P-256 key signed with SHA-256; \
         make one with: openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -sha256"
    )]
    Key,
    #[error("the signing request is not signed by its own key")]
    Signature,
}

impl VerifiedCsr {
    /// Verifies a DER-encoded PKCS#10 request (RFC 2986).
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_LEN {
            return Err(CsrError::Large(der.len()));
        }
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|error| CsrError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed(format!("{} bytes follow it", rest.len())));
        }
        let info = &request.certification_request_info;
        let public = PublicKey::from_spki(info.subject_pki.raw).ok_or(CsrError::Key)?;
        if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(CsrError::Key);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public.point())
            .verify(info.raw, &request.signature_value.data)
            .map_err(|_| CsrError::Signature)?;
        Ok(Self(public))
    }

    /// Verifies the first `CERTIFICATE REQUEST` of a PEM text.
    pub fn from_pem(text: impl AsRef<[u8]>) -> Result<Self, CsrError> {
        let text = text.as_ref();
        if text.len() > 2 * MAX_LEN {
            return Err(CsrError::Large(text.len()));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(text).map_err(|_| CsrError::Pem)?;
        Self::from_der(&der)
    }

    /// Check it against the deny-list before issuing a certificate.
    pub fn spki_sha256(&self) -> Fingerprint {
        self.0.fingerprint()
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.0
    }
}
