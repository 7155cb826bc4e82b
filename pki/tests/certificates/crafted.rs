//! Certificates that no CA of ours would make.

use cframe_pki::{
    CertificateDer,
    issue::{CaCertificate, IssuingCa, RootCa},
    key::PrivateKey,
};
use cframe_test_pki::TestPki;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{DAY, NOW};

/// A chain whose leaf has these parameters and a new key.
pub(crate) fn crafted(pki: &TestPki, params: &CertificateParams) -> Vec<CertificateDer<'static>> {
    let key = PrivateKey::generate().unwrap();
    vec![sign(params, &key, &pki.ca), pki.ca.certificate().clone()]
}

/// The parameters of a valid leaf, for a test to change.
pub(crate) fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(SerialNumber::from_slice(&[9; 16]));
    params.not_before = date(NOW - 3600);
    params.not_after = date(NOW + DAY);
    params
}

/// The parameters of an issuing CA with the subject and names of this one, for a test to change.
pub(crate) fn params_of(ca: &CertificateDer<'_>) -> CertificateParams {
    let mut params = subject_of(ca);
    let mesh = CaCertificate::issuing(ca).unwrap().mesh;
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{mesh}").try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date(NOW - 3600);
    params.not_after = date(NOW + 90 * DAY);
    params
}

/// Signs any parameters, as a stolen issuing CA would.
pub(crate) fn sign(
    params: &CertificateParams,
    key: &PrivateKey,
    ca: &IssuingCa,
) -> CertificateDer<'static> {
    sign_as(params, key, ca.certificate(), ca.key())
}

/// Signs any parameters with any CA's key.
pub(crate) fn sign_as(
    params: &CertificateParams,
    key: &PrivateKey,
    ca: &CertificateDer<'_>,
    ca_key: &PrivateKey,
) -> CertificateDer<'static> {
    let issuer = Issuer::new(subject_of(ca), signer(ca_key));
    params.signed_by(&signer(key), &issuer).unwrap().into()
}

/// An authority key identifier (RFC 5280 §4.2.1.1) that names `root`, whoever signs it.
pub(crate) fn authority_key(root: &RootCa) -> CustomExtension {
    let key = root.spki_sha256();
    let content = [&[0x30, 22, 0x80, 20], &key.as_bytes()[..20]].concat();
    CustomExtension::from_oid_content(&[2, 5, 29, 35], content)
}

/// The key in rcgen's form.
pub(crate) fn signer(key: &PrivateKey) -> KeyPair {
    KeyPair::from_pkcs8_pem_and_sign_algo(&key.to_pem(), &PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn parse_certificate<'a>(der: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    X509Certificate::from_der(der).unwrap().1
}

fn subject_of(certificate: &CertificateDer<'_>) -> CertificateParams {
    let parsed = parse_certificate(certificate);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = parsed.subject().iter_common_name().next() {
        params.distinguished_name.push(DnType::CommonName, name.as_str().unwrap());
    }
    params
}

fn date(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap()
}
