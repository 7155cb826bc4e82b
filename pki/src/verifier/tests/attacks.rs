//! Chains that were made to get past the verifier.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose};

use super::judge;
use crate::{
    CertificateDer, Fingerprint,
    bundle::{DenyEntry, DenyList},
    key::{PrivateKey, Signer},
    testing::{LEAF, NOW, World, bundle, edges, issue, leaf_params, sign},
    verifier::{PeerIdentity, Refusal},
};

const EDGE: &str = "spiffe://m/ns/prod/edge/a";

#[test]
fn a_leaf_cannot_be_an_issuer() {
    let world = World::new("m");
    let edge = world.credentials(EDGE);
    let key = PrivateKey::generate().unwrap();
    let mut own = CertificateParams::default();
    own.distinguished_name = rcgen::DistinguishedName::new();
    let issuer = Issuer::new(own, Signer(&edge.key));
    let forged = leaf_params(&["spiffe://m/ns/prod/edge/b"]).signed_by(&Signer(&key), &issuer);
    let mut chain = vec![forged.unwrap().into()];
    chain.extend(edge.chain);
    let refusal = judge(&world.verifier(edges("prod")), &chain).unwrap_err();
    assert_eq!(refusal, not_trusted("a leaf's certificate in an issuer's place"));
}

#[test]
fn an_issuing_ca_cannot_make_another() {
    let world = World::new("m");
    let (ca_key, leaf_key) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let mut params = leaf_params(&["spiffe://m"]);
    params.distinguished_name.push(DnType::CommonName, "below");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let below = sign(&params, &ca_key, &world.ca);
    let issuer = Issuer::new(params, Signer(&ca_key));
    let leaf = leaf_params(&[EDGE]).signed_by(&Signer(&leaf_key), &issuer).unwrap();
    let chain = [leaf.into(), below, world.ca.certificate().clone()];
    let refusal = judge(&world.verifier(edges("prod")), &chain).unwrap_err();
    assert_eq!(refusal, not_trusted("an issuing CA must not make CAs"));
}

#[test]
fn a_ca_is_no_peer() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let refusal = judge(&verifier, &[world.ca.certificate().clone()]).unwrap_err();
    assert_eq!(refusal, not_trusted("a CA's certificate in a leaf's place"));

    let mut params = leaf_params(&[EDGE]);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let refusal = judge(&verifier, &world.crafted(&params)).unwrap_err();
    assert_eq!(refusal.label(), "not_trusted");
}

#[test]
fn a_chain_is_leaf_then_issuer_and_short() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let chain = world.credentials(EDGE).chain;
    let [leaf, ca] = chain.as_slice() else {
        panic!("leaf and issuing CA");
    };
    let root = world.root.certificate();
    let take = |certificates: &[&CertificateDer<'static>]| -> Vec<_> {
        certificates.iter().copied().cloned().collect()
    };
    judge(&verifier, &take(&[leaf, ca, root])).unwrap();
    for (wrong, why) in [
        (take(&[]), "no certificate"),
        (take(&[leaf]), "the issuer is unknown"),
        (take(&[leaf, root, ca]), "the leaf is not followed by its issuer"),
        (take(&[leaf, ca, ca, ca, root]), "the chain is too long"),
    ] {
        assert_eq!(judge(&verifier, &wrong), Err(not_trusted(why)));
    }
}

#[test]
fn a_revoked_issuing_ca_takes_its_leaves_along_and_no_others() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let stolen = world.credentials(EDGE).chain;
    let sibling = world.root.issuing_ca(NOW).unwrap();
    let kept = issue(&sibling, EDGE, LEAF, NOW).chain;
    let (before, other) = (judge(&verifier, &stolen).unwrap(), judge(&verifier, &kept).unwrap());

    let mut revoking = bundle(&[&world.root]);
    revoking.revoked_issuers.insert(world.ca.spki_sha256());
    world.trust.replace(revoking, DenyList::default()).unwrap();

    let refusal = Refusal::RevokedIssuer { issuer: world.ca.spki_sha256() };
    assert_eq!(judge(&verifier, &stolen), Err(refusal.clone()));
    judge(&verifier, &kept).unwrap();
    assert_eq!(world.trust.denial(&before), Err(refusal), "a standing connection is found, too");
    assert_eq!(world.trust.denial(&other), Ok(()));
}

#[test]
fn a_revoked_key_is_refused_wherever_it_is_in_the_chain() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let edge = world.credentials(EDGE);
    for key in [world.root.spki_sha256(), world.ca.spki_sha256(), edge.key.spki_sha256()] {
        let mut revoking = bundle(&[&world.root]);
        revoking.revoked_issuers.insert(key);
        world.trust.replace(revoking, DenyList::default()).unwrap();
        let refusal = Refusal::RevokedIssuer { issuer: key };
        assert_eq!(judge(&verifier, &edge.chain), Err(refusal));
    }
}

#[test]
fn a_revoked_issuing_ca_with_a_new_certificate_stays_revoked() {
    let world = World::new("m");
    let csr = crate::issue::VerifiedCsr::from_der(&world.ca.key().csr().unwrap()).unwrap();
    let certificate = world.root.sign_issuing(&csr, NOW).unwrap();
    assert_ne!(&certificate, world.ca.certificate());
    let mut revoking = bundle(&[&world.root]);
    revoking.revoked_issuers.insert(world.ca.spki_sha256());
    world.trust.replace(revoking, DenyList::default()).unwrap();
    let mut chain = world.credentials(EDGE).chain;
    chain[1] = certificate;
    let refusal = judge(&world.verifier(edges("prod")), &chain).unwrap_err();
    assert_eq!(refusal.label(), "revoked_issuer");
}

/// CVE-2026-25793: for a signature (r, s) there is (r, n − s), just as valid, in a certificate with
/// another hash.
#[test]
fn the_deny_list_is_not_evaded_by_another_encoding() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let chain = world.credentials(EDGE).chain;
    let twin = vec![malleated(&chain[0]), chain[1].clone()];
    assert_ne!(chain[0], twin[0]);
    let peer = judge(&verifier, &chain).unwrap();
    assert_eq!(judge(&verifier, &twin), Ok(peer.clone()), "the twin is just as valid");

    deny(&world, DenyEntry::from(&peer));
    for chain in [&chain, &twin] {
        assert_eq!(judge(&verifier, chain), Err(Refusal::Denied));
    }
    assert_eq!(world.trust.denial(&peer), Err(Refusal::Denied));
}

#[test]
fn a_denied_key_does_not_come_back_in_another_certificate() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let key = PrivateKey::generate().unwrap();
    let chain_for = |id: &str, serial: u8| {
        let mut params = leaf_params(&[id]);
        params.serial_number = Some(vec![serial; 16].into());
        vec![sign(&params, &key, &world.ca), world.ca.certificate().clone()]
    };
    let first = judge(&verifier, &chain_for(EDGE, 1)).unwrap();
    deny(&world, DenyEntry::from(&first));
    for id in [EDGE, "spiffe://m/ns/prod/edge/b"] {
        assert_eq!(judge(&verifier, &chain_for(id, 2)), Err(Refusal::Denied), "{id}");
    }
}

#[test]
fn a_denied_serial_is_refused_and_a_new_certificate_of_the_name_is_not() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let chain = world.credentials(EDGE).chain;
    let peer: PeerIdentity = judge(&verifier, &chain).unwrap();
    let entry = DenyEntry {
        spki: Fingerprint::of_spki(b"a record with another key"),
        ..DenyEntry::from(&peer)
    };
    deny(&world, entry);
    assert_eq!(judge(&verifier, &chain), Err(Refusal::Denied));
    judge(&verifier, &world.credentials(EDGE).chain).unwrap();
}

fn deny(world: &World, entry: DenyEntry) {
    let deny = [entry].into_iter().collect();
    world.trust.replace(bundle(&[&world.root]), deny).unwrap();
}

fn not_trusted(why: &str) -> Refusal {
    Refusal::NotTrusted(why.to_owned())
}

/// The certificate with the other signature that is as good as its own.
fn malleated(certificate: &CertificateDer<'_>) -> CertificateDer<'static> {
    let parsed = crate::identity::parse_certificate(certificate).unwrap();
    let signature = parsed.signature_value.data.to_vec();
    // SEQUENCE { INTEGER r, INTEGER s }, all of them short.
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
