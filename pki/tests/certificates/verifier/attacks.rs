//! Chains that are crafted to get past the verifier.

use cframe_pki::{
    CertificateDer, Fingerprint,
    bundle::{DenyEntry, DenyList},
    identity::PeerIdentity,
    issue::VerifiedCsr,
    key::PrivateKey,
    verifier::Refusal,
};
use cframe_test_pki::{TestPki, bundle, issue};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose};

use super::judge;
use crate::{
    LEAF, NOW,
    crafted::{crafted, leaf_params, parse_certificate, sign, signer},
    edges, id,
};

const EDGE: &str = "spiffe://m/ns/prod/edge/a";

#[test]
fn a_leaf_cannot_be_an_issuer() {
    let pki = TestPki::at("m", NOW);
    let edge = pki.credentials(EDGE);
    let key = PrivateKey::generate().unwrap();
    let mut own = CertificateParams::default();
    own.distinguished_name = rcgen::DistinguishedName::new();
    let issuer = Issuer::new(own, signer(&edge.key));
    let forged = leaf_params(&["spiffe://m/ns/prod/edge/b"]).signed_by(&signer(&key), &issuer);
    let mut chain = vec![forged.unwrap().into()];
    chain.extend(edge.chain);
    let refusal = judge(&pki.verifier(edges("prod")), &chain).unwrap_err();
    assert_eq!(refusal, not_trusted("a leaf's certificate in an issuer's place"));
}

#[test]
fn an_issuing_ca_cannot_make_another() {
    let pki = TestPki::at("m", NOW);
    let (ca_key, leaf_key) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let mut params = leaf_params(&["spiffe://m"]);
    params.distinguished_name.push(DnType::CommonName, "below");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let below = sign(&params, &ca_key, &pki.ca);
    let issuer = Issuer::new(params, signer(&ca_key));
    let leaf = leaf_params(&[EDGE]).signed_by(&signer(&leaf_key), &issuer).unwrap();
    let chain = [leaf.into(), below, pki.ca.certificate().clone()];
    let refusal = judge(&pki.verifier(edges("prod")), &chain).unwrap_err();
    assert_eq!(refusal, not_trusted("an issuing CA must not make CAs"));
}

#[test]
fn a_ca_is_no_peer() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let refusal = judge(&verifier, &[pki.ca.certificate().clone()]).unwrap_err();
    assert_eq!(refusal, not_trusted("a CA's certificate in a leaf's place"));

    let mut params = leaf_params(&[EDGE]);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let refusal = judge(&verifier, &crafted(&pki, &params)).unwrap_err();
    assert_eq!(refusal.label(), "not_trusted");
}

#[test]
fn a_chain_is_leaf_then_issuer_and_short() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let chain = pki.credentials(EDGE).chain;
    let [leaf, ca] = chain.as_slice() else {
        panic!("leaf and issuing CA");
    };
    let root = pki.root.certificate();
    let chain_of = |certificates: &[&CertificateDer<'static>]| -> Vec<_> {
        certificates.iter().copied().cloned().collect()
    };
    judge(&verifier, &chain_of(&[leaf, ca, root])).unwrap();
    for (wrong, why) in [
        (chain_of(&[]), "no certificate"),
        (chain_of(&[leaf]), "the issuer is unknown"),
        (chain_of(&[leaf, root, ca]), "the leaf is not followed by its issuer"),
        (chain_of(&[leaf, ca, ca, ca, root]), "the chain is too long"),
    ] {
        assert_eq!(judge(&verifier, &wrong), Err(not_trusted(why)));
    }
}

#[test]
fn a_revoked_issuing_ca_revokes_its_leaves_and_no_others() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let stolen = pki.credentials(EDGE).chain;
    let sibling = pki.root.issuing_ca(NOW).unwrap();
    let kept = issue(&sibling, &id(EDGE), LEAF, NOW).chain;
    let (before, other) = (judge(&verifier, &stolen).unwrap(), judge(&verifier, &kept).unwrap());

    let mut revoking = bundle(&[&pki.root]);
    revoking.revoked_issuers.insert(pki.ca.spki_sha256());
    pki.trust.replace(revoking, DenyList::default()).unwrap();

    let refusal = Refusal::RevokedIssuer { issuer: pki.ca.spki_sha256() };
    assert_eq!(judge(&verifier, &stolen), Err(refusal.clone()));
    judge(&verifier, &kept).unwrap();
    assert_eq!(pki.trust.denial(&before), Err(refusal), "an established connection is found too");
    assert_eq!(pki.trust.denial(&other), Ok(()));
}

#[test]
fn a_revoked_key_is_refused_wherever_it_is_in_the_chain() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let edge = pki.credentials(EDGE);
    for key in [pki.root.spki_sha256(), pki.ca.spki_sha256(), edge.key.spki_sha256()] {
        let mut revoking = bundle(&[&pki.root]);
        revoking.revoked_issuers.insert(key);
        pki.trust.replace(revoking, DenyList::default()).unwrap();
        let refusal = Refusal::RevokedIssuer { issuer: key };
        assert_eq!(judge(&verifier, &edge.chain), Err(refusal));
    }
}

#[test]
fn a_revoked_issuing_ca_with_a_new_certificate_stays_revoked() {
    let pki = TestPki::at("m", NOW);
    let csr = VerifiedCsr::from_der(&pki.ca.key().csr().unwrap()).unwrap();
    let certificate = pki.root.sign_issuing(&csr, NOW).unwrap();
    assert_ne!(&certificate, pki.ca.certificate());
    let mut revoking = bundle(&[&pki.root]);
    revoking.revoked_issuers.insert(pki.ca.spki_sha256());
    pki.trust.replace(revoking, DenyList::default()).unwrap();
    let mut chain = pki.credentials(EDGE).chain;
    chain[1] = certificate;
    let refusal = judge(&pki.verifier(edges("prod")), &chain).unwrap_err();
    assert_eq!(refusal.label(), "revoked_issuer");
}

/// CVE-2026-25793: with (r, s) the signature (r, n − s) is valid too, in a certificate with another
/// hash.
#[test]
fn the_deny_list_is_not_evaded_by_another_encoding() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let chain = pki.credentials(EDGE).chain;
    let twin = vec![malleated(&chain[0]), chain[1].clone()];
    assert_ne!(chain[0], twin[0]);
    let peer = judge(&verifier, &chain).unwrap();
    assert_eq!(judge(&verifier, &twin), Ok(peer.clone()), "the twin is just as valid");

    deny(&pki, DenyEntry::from(&peer));
    for chain in [&chain, &twin] {
        assert_eq!(judge(&verifier, chain), Err(Refusal::Denied));
    }
    assert_eq!(pki.trust.denial(&peer), Err(Refusal::Denied));
}

#[test]
fn a_denied_key_does_not_come_back_in_another_certificate() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let key = PrivateKey::generate().unwrap();
    let chain_for = |id: &str, serial: u8| {
        let mut params = leaf_params(&[id]);
        params.serial_number = Some(vec![serial; 16].into());
        vec![sign(&params, &key, &pki.ca), pki.ca.certificate().clone()]
    };
    let first = judge(&verifier, &chain_for(EDGE, 1)).unwrap();
    deny(&pki, DenyEntry::from(&first));
    for id in [EDGE, "spiffe://m/ns/prod/edge/b"] {
        assert_eq!(judge(&verifier, &chain_for(id, 2)), Err(Refusal::Denied), "{id}");
    }
}

#[test]
fn a_denied_serial_is_refused_and_a_new_certificate_of_the_name_is_not() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let chain = pki.credentials(EDGE).chain;
    let peer: PeerIdentity = judge(&verifier, &chain).unwrap();
    let entry = DenyEntry {
        spki: Fingerprint::of_spki(b"a record with another key"),
        ..DenyEntry::from(&peer)
    };
    deny(&pki, entry);
    assert_eq!(judge(&verifier, &chain), Err(Refusal::Denied));
    judge(&verifier, &pki.credentials(EDGE).chain).unwrap();
}

fn deny(pki: &TestPki, entry: DenyEntry) {
    let deny = [entry].into_iter().collect();
    pki.trust.replace(bundle(&[&pki.root]), deny).unwrap();
}

fn not_trusted(why: &str) -> Refusal {
    Refusal::NotTrusted(why.to_owned())
}

/// The certificate with the other valid signature.
fn malleated(certificate: &CertificateDer<'_>) -> CertificateDer<'static> {
    let parsed = parse_certificate(certificate);
    let signature = parsed.signature_value.data.to_vec();
    // SEQUENCE { INTEGER r, INTEGER s }, all with lengths of one byte.
    let r_len = usize::from(signature[3]);
    let (r, s) = (&signature[4..4 + r_len], &signature[6 + r_len..]);
    let body = [integer(r), integer(&order_minus(s))].concat();
    let bits = [&[0, 0x30, len(&body)][..], &body].concat();
    // Up to the BIT STRING, which ends the certificate: its header has two bytes.
    let algorithm_end = certificate.len() - signature.len() - 3;
    let header = 4;
    let signed = &certificate[header..algorithm_end];
    let content = [signed, &[3, len(&bits)], &bits].concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let der = [&[0x30, 0x82][..], &length, &content].concat();
    CertificateDer::from(der)
}

fn len(bytes: &[u8]) -> u8 {
    u8::try_from(bytes.len()).unwrap()
}

fn integer(magnitude: &[u8]) -> Vec<u8> {
    let start = magnitude.iter().position(|byte| *byte != 0).unwrap();
    let magnitude = &magnitude[start..];
    let sign: &[u8] = if magnitude[0] & 0x80 != 0 { &[0] } else { &[] };
    [&[2, len(magnitude) + len(sign)][..], sign, magnitude].concat()
}

/// n − s, where n is the order of P-256 (FIPS 186-4 §D.1.2.3).
fn order_minus(s: &[u8]) -> [u8; 32] {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut difference = ORDER;
    let mut borrow = 0;
    for (index, digit) in difference.iter_mut().rev().enumerate() {
        let from_s = s.len().checked_sub(index + 1).map_or(0, |at| s[at]);
        let value = i16::from(*digit) - i16::from(from_s) - borrow;
        borrow = i16::from(value < 0);
        *digit = value.rem_euclid(256) as u8;
    }
    difference
}
