//! The fields of every certificate that this crate signs.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber, string::Ia5String,
};
use time::OffsetDateTime;

use super::IssueError;
use crate::{
    Serial,
    identity::{MeshName, SpiffeId},
};

/// Unix seconds, both included.
pub(super) struct Validity {
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

/// A leaf's subject is empty, which makes the extension with its one name critical (RFC 5280 §4.1.2.6).
pub(super) fn leaf(
    id: &SpiffeId,
    serial: Serial,
    validity: &Validity,
) -> Result<CertificateParams, IssueError> {
    let mut params = base(id.to_string(), serial, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// A CA's name is the SPIFFE ID of its trust domain (X509-SVID §3.2).
pub(super) fn authority(
    mesh: &MeshName,
    common_name: &str,
    path_len: u8,
    serial: Serial,
    validity: &Validity,
) -> Result<CertificateParams, IssueError> {
    let mut params = base(format!("spiffe://{mesh}"), serial, validity)?;
    params.distinguished_name = subject(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// A CA's subject, which certificates that it signs have as their issuer.
pub(super) fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

pub(super) fn serial() -> Result<Serial, IssueError> {
    Serial::random().map_err(|_| IssueError::Sign("the system's random source failed".to_owned()))
}

fn base(uri: String, serial: Serial, validity: &Validity) -> Result<CertificateParams, IssueError> {
    let uri = Ia5String::try_from(uri).map_err(|error| IssueError::Sign(error.to_string()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn date(seconds: u64) -> Result<OffsetDateTime, IssueError> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| IssueError::Sign(format!("{seconds} is out of the range of dates")))
}
