//! Leaves that an issuing CA signs.

use std::{collections::BTreeSet, time::Duration};

use cframe_pki::{
    identity::{PeerIdentity, SpiffeId},
    issue::{IssueError, LEAF_LIFETIME, VerifiedCsr},
    key::PrivateKey,
};
use cframe_test_pki::TestPki;

use crate::{DAY, NOW, crafted::parse_certificate, id};

const EDGE: &str = "spiffe://m/ns/prod/edge/a";

fn csr() -> VerifiedCsr {
    VerifiedCsr::from_der(&PrivateKey::generate().unwrap().csr().unwrap()).unwrap()
}

#[test]
fn the_record_of_a_leaf_has_its_content() {
    let pki = TestPki::at("m", NOW);
    let csr = csr();
    let issued = pki.ca.issue(&csr, &id(EDGE), LEAF_LIFETIME, NOW).unwrap();
    assert_eq!((issued.not_before, issued.not_after), (NOW - 3600, NOW + 30 * DAY));
    let read = PeerIdentity::from_chain(std::slice::from_ref(&issued.der)).unwrap();
    assert_eq!(read.id, id(EDGE));
    assert_eq!((read.serial, read.spki), (issued.serial, issued.spki_sha256));
    assert_eq!((read.not_before, read.not_after), (issued.not_before, issued.not_after));
    assert_eq!(issued.spki_sha256, csr.spki_sha256());
    let leaf = parse_certificate(&issued.der);
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical, "the subject is empty");
}

#[test]
fn no_leaf_outlives_its_issuer() {
    let pki = TestPki::at("m", NOW);
    let end = pki.ca.not_after();
    let late = end - DAY;
    let issued = pki.ca.issue(&csr(), &id(EDGE), LEAF_LIFETIME, late).unwrap();
    assert_eq!(issued.not_after, end);
    let issued = pki.ca.issue(&csr(), &id(EDGE), Duration::MAX, NOW).unwrap();
    assert_eq!(issued.not_after, end);
}

#[test]
fn a_ca_issues_nothing_outside_of_its_own_validity() {
    let pki = TestPki::at("m", NOW);
    for now in [pki.ca.not_after() + 1, NOW - 3601, 0, u64::MAX] {
        let error = pki.ca.issue(&csr(), &id(EDGE), LEAF_LIFETIME, now).unwrap_err();
        assert!(matches!(error, IssueError::CaNotValid { .. }), "{error}");
    }
}

#[test]
fn a_ca_issues_for_its_own_mesh_alone() {
    let pki = TestPki::at("m", NOW);
    let other: SpiffeId = id("spiffe://n/ns/prod/edge/a");
    let error = pki.ca.issue(&csr(), &other, LEAF_LIFETIME, NOW).unwrap_err().to_string();
    assert!(error.contains("spiffe://n/ns/prod/edge/a") && error.contains("mesh m"), "{error}");
}

#[test]
fn a_lifetime_of_zero_is_refused() {
    let pki = TestPki::at("m", NOW);
    let error = pki.ca.issue(&csr(), &id(EDGE), Duration::ZERO, NOW).unwrap_err();
    assert_eq!(error, IssueError::Lifetime(Duration::ZERO));
}

#[test]
fn the_longest_names_fit() {
    let label = "x".repeat(63);
    let mesh = format!("{label}.{label}.{label}.{}", "x".repeat(61));
    let pki = TestPki::at(&mesh, NOW);
    let longest = format!("spiffe://{mesh}/ns/{label}/edge/{label}");
    pki.ca.issue(&csr(), &id(&longest), LEAF_LIFETIME, NOW).unwrap();
}

#[test]
fn serials_are_random_and_differ() {
    let pki = TestPki::at("m", NOW);
    let csr = csr();
    let serials: BTreeSet<_> = (0..100)
        .map(|_| pki.ca.issue(&csr, &id(EDGE), LEAF_LIFETIME, NOW).unwrap().serial)
        .collect();
    assert_eq!(serials.len(), 100);
    let ones: u32 =
        serials.iter().flat_map(|serial| serial.as_bytes()).map(|byte| byte.count_ones()).sum();
    // Six standard deviations of 12,800 fair bits are 340.
    assert!((6060..=6740).contains(&ones), "{ones} of 12800 bits are set");
}
