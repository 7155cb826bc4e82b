//! A mesh for tests, certificates that no CA of ours would make, and handshakes in memory.

mod handshake;

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::{
    CertificateDer,
    bundle::{DenyList, TrustBundle},
    identity::{self, Label, MeshName, SpiffeId},
    issue::{CaCertificate, IssuingCa, LEAF_LIFETIME, RootCa, VerifiedCsr},
    key::{PrivateKey, Signer},
    tls::Credentials,
    verifier::{PeerVerifier, Policy, Trust},
};

pub(crate) use handshake::{Outcome, handshake, pinned_clock, resuming};

/// The present, in tests.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const DAY: u64 = 86_400;
pub(crate) const LEAF: Duration = LEAF_LIFETIME;

/// A mesh with its CAs.
pub(crate) struct World {
    pub(crate) root: RootCa,
    pub(crate) ca: IssuingCa,
    pub(crate) trust: Trust,
}

impl World {
    pub(crate) fn new(mesh: &str) -> Self {
        let mesh: MeshName = mesh.parse().unwrap();
        let root = RootCa::generate(&mesh, NOW).unwrap();
        let ca = root.issuing_ca(NOW).unwrap();
        let trust = Trust::new(mesh, bundle(&[&root]), DenyList::default()).unwrap();
        Self { root, ca, trust }
    }

    pub(crate) fn credentials(&self, id: &str) -> Credentials {
        self.credentials_at(id, NOW)
    }

    pub(crate) fn credentials_at(&self, id: &str, now: u64) -> Credentials {
        issue(&self.ca, id, LEAF, now)
    }

    pub(crate) fn verifier(&self, policy: Policy) -> PeerVerifier {
        PeerVerifier::new(self.trust.clone(), policy)
    }

    /// A chain with a leaf that is signed as it is given.
    pub(crate) fn crafted(&self, params: &CertificateParams) -> Vec<CertificateDer<'static>> {
        let key = PrivateKey::generate().unwrap();
        vec![sign(params, &key, &self.ca), self.ca.certificate().clone()]
    }
}

pub(crate) fn issue(ca: &IssuingCa, id: &str, lifetime: Duration, now: u64) -> Credentials {
    let key = PrivateKey::generate().unwrap();
    let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
    let leaf = ca.issue(&csr, &id.parse().unwrap(), lifetime, now).unwrap();
    Credentials { chain: vec![leaf.der, ca.certificate().clone()], key }
}

pub(crate) fn bundle(roots: &[&RootCa]) -> TrustBundle {
    TrustBundle {
        roots: roots.iter().map(|root| root.certificate().clone()).collect(),
        revoked_issuers: [].into(),
    }
}

pub(crate) fn edges(namespace: &str) -> Policy {
    Policy::Edges { namespace: label(namespace), not_self: None }
}

pub(crate) fn label(text: &str) -> Label {
    text.parse().unwrap()
}

/// The parameters of a leaf like ours, to be spoiled.
pub(crate) fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(SerialNumber::from_slice(&[9; 16]));
    params.not_before = OffsetDateTime::from_unix_timestamp((NOW - 3600) as i64).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp((NOW + DAY) as i64).unwrap();
    params
}

/// Signs whatever it is given, as an issuing CA that has gone over would.
pub(crate) fn sign(
    params: &CertificateParams,
    key: &PrivateKey,
    ca: &IssuingCa,
) -> CertificateDer<'static> {
    sign_as(params, key, ca.certificate(), ca.key())
}

/// The same as any CA.
pub(crate) fn sign_as(
    params: &CertificateParams,
    key: &PrivateKey,
    ca: &CertificateDer<'_>,
    ca_key: &PrivateKey,
) -> CertificateDer<'static> {
    let issuer = Issuer::new(subject_of(ca), Signer(ca_key));
    params.signed_by(&Signer(key), &issuer).unwrap().into()
}

/// The parameters of an issuing CA with the subject and names of this one, to be spoiled.
pub(crate) fn params_of(ca: &CertificateDer<'_>) -> CertificateParams {
    let mut params = subject_of(ca);
    let mesh = CaCertificate::issuing(ca).unwrap().mesh;
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{mesh}").try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = OffsetDateTime::from_unix_timestamp((NOW - 3600) as i64).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp((NOW + 90 * DAY) as i64).unwrap();
    params
}

/// The extension by which a certificate names its issuer's key (RFC 5280 §4.2.1.1), as a lie would have it.
pub(crate) fn authority_key(root: &RootCa) -> CustomExtension {
    let key = root.spki_sha256();
    let content = [&[0x30, 22, 0x80, 20], &key.as_bytes()[..20]].concat();
    CustomExtension::from_oid_content(&[2, 5, 29, 35], content)
}

/// Parameters with the subject of a certificate.
fn subject_of(certificate: &CertificateDer<'_>) -> CertificateParams {
    let parsed = identity::parse_certificate(certificate).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = parsed.subject().iter_common_name().next() {
        params.distinguished_name.push(DnType::CommonName, name.as_str().unwrap());
    }
    params
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}
