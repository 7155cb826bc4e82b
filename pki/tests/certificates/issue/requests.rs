//! Signing requests that request too much, or prove nothing.

use cframe_pki::{
    identity::SpiffeId,
    issue::{CsrError, LEAF_LIFETIME, VerifiedCsr},
    key::PrivateKey,
};
use cframe_test_pki::TestPki;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};

use crate::{
    NOW,
    crafted::{parse_certificate, signer},
    id,
};

const EDGE: &str = "spiffe://m/ns/prod/edge/a";

/// A request to be a CA with the names of a controller.
fn greedy(key: &PrivateKey) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "cframe root CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    params.subject_alt_names = vec![
        SanType::URI("spiffe://m/controller/c1".try_into().unwrap()),
        SanType::DnsName("c1.example".try_into().unwrap()),
    ];
    params.serialize_request(&signer(key)).unwrap().der().to_vec()
}

#[test]
fn a_request_to_be_a_ca_in_anothers_name_gets_an_ordinary_leaf_in_its_own() {
    let pki = TestPki::at("m", NOW);
    let key = PrivateKey::generate().unwrap();
    let csr = VerifiedCsr::from_der(&greedy(&key)).unwrap();
    let issued = pki.ca.issue(&csr, &id(EDGE), LEAF_LIFETIME, NOW).unwrap();

    let leaf = parse_certificate(&issued.der);
    assert!(!leaf.is_ca());
    assert_eq!(SpiffeId::from_certificate(&issued.der).unwrap(), id(EDGE));
    assert_eq!(leaf.subject().iter_attributes().count(), 0);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature alone");
    let purpose = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purpose.server_auth && purpose.client_auth && !purpose.any);
    assert!(!purpose.code_signing && !purpose.email_protection && purpose.other.is_empty());
    let constraints = leaf.basic_constraints().unwrap().map(|found| found.value.ca);
    assert_ne!(constraints, Some(true));
    assert_eq!(leaf.validity().not_after.timestamp(), (NOW + LEAF_LIFETIME.as_secs()) as i64);

    let extensions: Vec<_> = leaf.extensions().iter().map(|found| &found.oid).collect();
    let ours = [
        &OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
        &OID_X509_EXT_SUBJECT_ALT_NAME,
        &OID_X509_EXT_KEY_USAGE,
        &OID_X509_EXT_EXTENDED_KEY_USAGE,
        &OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
        &OID_X509_EXT_BASIC_CONSTRAINTS,
    ];
    assert_eq!(extensions, ours);
}

/// Shows that the test above can fail: the request does contain all of this.
#[test]
fn the_greedy_request_contains_all_of_it() {
    let key = PrivateKey::generate().unwrap();
    let request = greedy(&key);
    for word in [&b"spiffe://m/controller/c1"[..], b"c1.example", b"cframe root CA"] {
        assert!(request.windows(word.len()).any(|window| window == word));
    }
    // BasicConstraints with CA:TRUE (RFC 5280 §4.2.1.9).
    let ca = [0x55, 0x1d, 0x13, 1, 1, 0xff, 4, 5, 0x30, 3, 1, 1, 0xff];
    assert!(request.windows(ca.len()).any(|window| window == ca));
}

#[test]
fn our_own_requests_are_bare() {
    let key = PrivateKey::generate().unwrap();
    let pem = key.csr_pem().unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{pem}");
    let csr = VerifiedCsr::from_pem(&pem).unwrap();
    assert_eq!(csr.spki_sha256(), key.spki_sha256());
    assert!(key.csr().unwrap().len() < 260);
}

#[test]
fn a_request_for_somebody_elses_key_is_refused() {
    let (ours, theirs) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let mut request = ours.csr().unwrap().to_vec();
    let at = request.windows(65).position(|window| window == point(&ours)).unwrap();
    request[at..at + 65].copy_from_slice(&point(&theirs));
    assert_eq!(VerifiedCsr::from_der(&request), Err(CsrError::Signature));
}

#[test]
fn a_point_off_the_curve_is_refused() {
    let key = PrivateKey::generate().unwrap();
    let mut request = key.csr().unwrap().to_vec();
    let at = request.windows(65).position(|window| window == point(&key)).unwrap();
    request[at + 64] ^= 1;
    assert_eq!(VerifiedCsr::from_der(&request), Err(CsrError::Signature));
}

#[test]
fn other_kinds_of_keys_are_refused_with_the_way_to_make_one() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let error = VerifiedCsr::from_der(request.der()).unwrap_err();
        assert_eq!(error, CsrError::Key);
        assert!(error.to_string().contains("prime256v1"), "{error}");
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    VerifiedCsr::from_der(request.der()).unwrap();
}

/// Another encoding of the same key has another fingerprint, which would evade the deny-list.
#[test]
fn compressed_and_hybrid_points_are_refused() {
    let key = PrivateKey::generate().unwrap();
    let point = point(&key);
    let odd = point[64] & 1;
    let compressed = [&[2 + odd][..], &point[1..33]].concat();
    let hybrid = [&[6 + odd][..], &point[1..]].concat();
    VerifiedCsr::from_der(&request_with(&key, &point)).unwrap();
    for other in [compressed, hybrid] {
        assert_eq!(VerifiedCsr::from_der(&request_with(&key, &other)), Err(CsrError::Key));
    }
}

/// The public key as `04 || X || Y`.
fn point(key: &PrivateKey) -> Vec<u8> {
    signer(key).public_key_raw().to_vec()
}

/// A request, signed by the key, with any bytes as its public point.
fn request_with(key: &PrivateKey, point: &[u8]) -> Vec<u8> {
    let sequence = |parts: &[&[u8]]| {
        let body = parts.concat();
        let len = u8::try_from(body.len()).unwrap();
        let header: &[u8] = if len < 0x80 { &[0x30, len] } else { &[0x30, 0x81, len] };
        [header, &body].concat()
    };
    let bits = |bytes: &[u8]| [&[3, bytes.len() as u8 + 1, 0][..], bytes].concat();
    let ec_public_key_on_p256 =
        [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let spki = sequence(&[&sequence(&[&ec_public_key_on_p256]), &bits(point)]);
    let info = sequence(&[&[2, 1, 0], &sequence(&[]), &spki, &[0xa0, 0]]);
    let signature = rcgen::SigningKey::sign(&signer(key), &info).unwrap();
    let ecdsa_with_sha256 = sequence(&[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]]);
    sequence(&[&info, &ecdsa_with_sha256, &bits(&signature)])
}

#[test]
fn trailing_bytes_and_large_requests_are_refused() {
    let request = PrivateKey::generate().unwrap().csr().unwrap();
    let trailing = [&request[..], &[0]].concat();
    assert!(matches!(VerifiedCsr::from_der(&trailing), Err(CsrError::Malformed(_))));
    assert_eq!(VerifiedCsr::from_der(&[0x30; 4097]), Err(CsrError::Large(4097)));
    assert_eq!(VerifiedCsr::from_pem("no request"), Err(CsrError::Pem));
}

proptest! {
    // Failures are not recorded: the keys are new in every run.
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_damaged_request_never_yields_another_key(at: prop::sample::Index, bit in 0..8) {
        let key = PrivateKey::generate().unwrap();
        let mut request = key.csr().unwrap().to_vec();
        let at = at.index(request.len());
        request[at] ^= 1u8 << bit;
        // The bytes around the signed part are not signed, so a parser may accept them.
        if let Ok(csr) = VerifiedCsr::from_der(&request) {
            prop_assert_eq!(csr.spki_sha256(), key.spki_sha256());
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes: Vec<u8>, text in ".{0,100}") {
        prop_assert!(VerifiedCsr::from_der(&bytes).is_err());
        prop_assert!(VerifiedCsr::from_pem(&text).is_err());
    }
}
