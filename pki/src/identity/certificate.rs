//! Reading identities from certificates. [`crate::verifier`] verifies them.

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{SpiffeId, SpiffeIdError};
use crate::{CertificateDer, Fingerprint, Serial};

/// The SPIFFE ID in a certificate, and what deny-lists and logs name the certificate by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub id: SpiffeId,
    pub serial: Serial,
    pub spki: Fingerprint,
    /// The public key of the next certificate in the chain, which in an accepted chain is the leaf's
    /// issuer. `None` if the chain has one certificate.
    pub issuer: Option<Fingerprint>,
    pub not_before: u64,
    /// The last valid second.
    pub not_after: u64,
}

/// Why a certificate doesn't name a participant of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateIdentityError {
    #[error("the chain is empty")]
    Empty,
    /// Not DER, more than one certificate, or an extension that doesn't parse or occurs twice.
    #[error("the certificate is malformed: {0}")]
    Malformed(String),
    #[error("the certificate must have exactly one name, a URI; it has {0}")]
    Names(String),
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// Negative, or more than 128 bits.
    #[error("the certificate's serial {0} is not one of this mesh: it must have at most 128 bits")]
    Serial(String),
}

impl PeerIdentity {
    /// Reads a chain, leaf first. Nothing is verified: use it on the chain of an established
    /// connection, which the handshake has verified.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Result<Self, CertificateIdentityError> {
        let (leaf, rest) = chain.split_first().ok_or(CertificateIdentityError::Empty)?;
        let leaf = parse(leaf)?;
        let issuer = rest.first().map(parse).transpose()?;
        Ok(Self {
            id: spiffe_id(&leaf)?,
            serial: serial(&leaf)?,
            spki: fingerprint(&leaf),
            issuer: issuer.as_ref().map(fingerprint),
            not_before: seconds(leaf.validity().not_before.timestamp()),
            not_after: seconds(leaf.validity().not_after.timestamp()),
        })
    }
}

pub(crate) fn parse<'a>(
    der: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, CertificateIdentityError> {
    let malformed = |why: String| CertificateIdentityError::Malformed(why);
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes follow it", rest.len())));
    }
    Ok(certificate)
}

pub(crate) fn spiffe_id(
    certificate: &X509Certificate<'_>,
) -> Result<SpiffeId, CertificateIdentityError> {
    Ok(only_uri(certificate)?.parse::<SpiffeId>()?)
}

/// A certificate's subject alternative name, which must be one URI.
pub(crate) fn only_uri<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<&'a str, CertificateIdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| CertificateIdentityError::Malformed(error.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    match names {
        [GeneralName::URI(uri)] => Ok(uri),
        [] => Err(CertificateIdentityError::Names("none".into())),
        [_] => Err(CertificateIdentityError::Names("one of another kind".into())),
        _ => Err(CertificateIdentityError::Names(names.len().to_string())),
    }
}

pub(crate) fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or(0)
}

fn serial(certificate: &X509Certificate<'_>) -> Result<Serial, CertificateIdentityError> {
    Serial::from_der_integer(certificate.raw_serial())
        .ok_or_else(|| CertificateIdentityError::Serial(certificate.raw_serial_as_string()))
}

fn fingerprint(certificate: &X509Certificate<'_>) -> Fingerprint {
    Fingerprint::of_spki(certificate.public_key().raw)
}
