//! webpki's check of a chain.

use std::time::Duration;

use rustls::{
    SignatureScheme,
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{TrustAnchor, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage, aws_lc_rs::ECDSA_P256_SHA256};

use super::Refusal;
use crate::{CertificateDer, Fingerprint};

/// The only signature algorithm of a mesh.
pub(crate) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[ECDSA_P256_SHA256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[ECDSA_P256_SHA256])],
};

/// A chain is a leaf, an issuing CA and perhaps the root. Longer ones only cost time.
const MAX_CHAIN: usize = 4;

/// Checks that the chain, leaf first, leads to one of the anchors and is valid at `now`. Returns the
/// public keys on the path, from the leaf's to the anchor's.
pub(crate) fn verify_chain(
    chain: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    now: u64,
    usage: KeyUsage,
) -> Result<Vec<Fingerprint>, Refusal> {
    let untrusted = |why: &str| Refusal::NotTrusted(why.to_owned());
    let (leaf, rest) = chain.split_first().ok_or_else(|| untrusted("no certificate"))?;
    if chain.len() > MAX_CHAIN {
        return Err(untrusted("the chain is too long"));
    }
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| refusal(error, now))?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let path = leaf
        .verify_for_usage(ALGORITHMS.all, anchors, rest, time, usage, None, None)
        .map_err(|error| refusal(error, now))?;

    let key = |spki: &[u8]| Fingerprint::of_spki(spki);
    // `PeerIdentity::issuer` is read there (RFC 8446 §4.4.2).
    if let Some(second) = rest.first() {
        let second = EndEntityCert::try_from(second).map_err(|error| refusal(error, now))?;
        if second.subject_public_key_info() != path.issuer_spki() {
            return Err(untrusted("the leaf is not followed by its issuer"));
        }
    }
    let mut keys = vec![key(&leaf.subject_public_key_info())];
    keys.extend(path.intermediate_certificates().map(|ca| key(&ca.subject_public_key_info())));
    keys.push(key(&webpki::spki_for_anchor(path.anchor())));
    Ok(keys)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "webpki has fifty ways to say that a chain is untrusted"
)]
fn refusal(error: webpki::Error, now: u64) -> Refusal {
    use webpki::Error;
    let why = match error {
        Error::CertExpired { not_after, .. } => {
            let not_after = not_after.as_secs();
            return Refusal::Expired { not_after, now };
        }
        Error::CertNotValidYet { not_before, .. } => {
            let not_before = not_before.as_secs();
            return Refusal::NotYetValid { not_before, now };
        }
        Error::UnknownIssuer => "the issuer is unknown".to_owned(),
        Error::InvalidSignatureForPublicKey => "a signature in the chain is wrong".to_owned(),
        Error::CaUsedAsEndEntity => "a CA's certificate in a leaf's place".to_owned(),
        Error::EndEntityUsedAsCa => "a leaf's certificate in an issuer's place".to_owned(),
        Error::PathLenConstraintViolated => "an issuing CA must not make CAs".to_owned(),
        Error::RequiredEkuNotFoundContext(_) => {
            "the certificate is for another purpose than this side of TLS".to_owned()
        }
        other => other.to_string(),
    };
    Refusal::NotTrusted(why)
}
