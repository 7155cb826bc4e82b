//! Public keys: uncompressed points on P-256 and nothing else.

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};

use crate::Fingerprint;

/// SubjectPublicKeyInfo of RFC 5480 for id-ecPublicKey on secp256r1, up to the point itself.
const PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A P-256 public key. Compressed points and other encodings of the algorithm are refused, so that
/// a denied key has no second fingerprint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PublicKey([u8; 65]);

impl PublicKey {
    /// From a DER-encoded SubjectPublicKeyInfo; `None` if it is of any other form.
    pub(crate) fn from_spki(der: &[u8]) -> Option<Self> {
        Self::from_point(der.strip_prefix(&PREFIX)?)
    }

    /// From `04 || X || Y`. Only the verification of a signature shows whether it is on the curve.
    pub(crate) fn from_point(point: &[u8]) -> Option<Self> {
        let point: [u8; 65] = point.try_into().ok()?;
        (point[0] == 4).then_some(Self(point))
    }

    pub(crate) fn point(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&[&PREFIX[..], &self.0].concat())
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
