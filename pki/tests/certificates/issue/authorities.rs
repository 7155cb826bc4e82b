//! Roots and issuing CAs, and their files.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use cframe_pki::{
    CertificateDer,
    issue::{
        CaCertificate, CaError, CaFileError, IssueError, IssuingCa, RootCa, RootError, VerifiedCsr,
        read_certificate,
    },
    key::PrivateKey,
    verifier::PeerSide,
};
use cframe_test_pki::{TestPki, issue};
use rcgen::{BasicConstraints, CertificateParams, IsCa, SanType};

use crate::{
    DAY, LEAF, NOW,
    crafted::{params_of, parse_certificate, sign_as, signer},
    edges, id,
};

#[test]
fn a_root_makes_issuing_cas_of_path_length_0() {
    let pki = TestPki::at("m", NOW);
    let root = parse_certificate(pki.root.certificate());
    let ca = parse_certificate(pki.ca.certificate());
    let path_len = |certificate: &x509_parser::certificate::X509Certificate<'_>| {
        let found = certificate.basic_constraints().unwrap().unwrap();
        assert!(found.critical && found.value.ca);
        assert!(certificate.key_usage().unwrap().unwrap().value.key_cert_sign());
        found.value.path_len_constraint
    };
    assert_eq!((path_len(&root), path_len(&ca)), (Some(1), Some(0)));
    assert_eq!(pki.root.not_after(), NOW + 3650 * DAY);
    assert_eq!(pki.ca.not_after(), NOW + 3 * 365 * DAY);
    assert_ne!(root.subject().to_string(), ca.subject().to_string());
    assert_eq!(pki.ca.mesh(), pki.root.mesh());
}

#[test]
fn no_issuing_ca_outlives_its_root() {
    let pki = TestPki::at("m", NOW);
    let late = pki.root.not_after() - DAY;
    assert_eq!(pki.root.issuing_ca(late).unwrap().not_after(), pki.root.not_after());
    let error = pki.root.issuing_ca(pki.root.not_after() + 1).unwrap_err();
    assert!(matches!(error, IssueError::CaNotValid { .. }));
}

#[test]
fn an_issuing_ca_whose_key_never_left_its_controller() {
    let pki = TestPki::at("m", NOW);
    let key = PrivateKey::generate().unwrap();
    let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
    let certificate = pki.root.sign_issuing(&csr, NOW).unwrap();
    let ca = IssuingCa::new(certificate, key).unwrap();
    let chain = issue(&ca, &id("spiffe://m/ns/prod/edge/a"), LEAF, NOW).chain;
    pki.verifier(edges("prod")).judge(&chain, PeerSide::Client, NOW).unwrap();
}

#[test]
fn a_root_is_read_from_its_certificate_alone() {
    let pki = TestPki::at("m", NOW);
    let root = CaCertificate::root(pki.root.certificate()).unwrap();
    assert_eq!((&root.mesh, root.spki), (pki.root.mesh(), pki.root.spki_sha256()));
    assert_eq!(root.not_after, pki.root.not_after());
    assert!(root.subject.starts_with("cframe root CA "), "{}", root.subject);
    assert!(root.signs(pki.ca.certificate()));
    let other = TestPki::at("m", NOW);
    assert!(!root.signs(other.ca.certificate()), "signed by another root");
    let issuing = CaCertificate::issuing(pki.ca.certificate()).unwrap();
    assert_eq!(issuing.spki, pki.ca.spki_sha256());
    assert!(!issuing.signs(pki.root.certificate()));
}

#[test]
fn only_a_root_of_the_form_that_we_make_is_accepted() {
    let pki = TestPki::at("m", NOW);
    let (root, key) = (pki.root.certificate(), PrivateKey::generate().unwrap());
    let refused = |der: &CertificateDer<'_>| CaCertificate::root(der).unwrap_err();
    assert_eq!(refused(pki.ca.certificate()), RootError::Ca(CaError::NotCa(1)));
    let leaf = pki.credentials("spiffe://m/controller/c1").chain.remove(0);
    assert_eq!(refused(&leaf), RootError::Ca(CaError::NotCa(1)));
    let made = |spoil: &dyn Fn(&mut CertificateParams)| {
        let mut params = params_of(pki.ca.certificate());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        spoil(&mut params);
        refused(&params.self_signed(&signer(&key)).unwrap().into())
    };
    let unconstrained = made(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(unconstrained, RootError::Ca(CaError::NotCa(1)));
    assert_eq!(made(&|params| params.key_usages.clear()), RootError::Ca(CaError::NotCa(1)));
    let nameless = made(&|params| params.subject_alt_names.clear());
    assert!(matches!(nameless, RootError::Ca(CaError::Certificate(_))), "{nameless}");
    let edge = made(&|params| {
        params.subject_alt_names = vec![SanType::URI("spiffe://m/x".try_into().unwrap())];
    });
    assert!(matches!(edge, RootError::Ca(CaError::MeshName(_))), "{edge}");
    // A certificate that the root has signed is no root: it has not signed itself.
    let mut params = params_of(pki.ca.certificate());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    let below = sign_as(&params, &key, root, pki.root.key());
    assert_eq!(refused(&below), RootError::NotSelfSigned);
    let mut bytes = root.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(refused(&bytes.into()), RootError::NotSelfSigned);
}

#[test]
fn certificate_and_key_must_be_of_one_ca() {
    let pki = TestPki::at("m", NOW);
    let (root, ca) = (&pki.root, &pki.ca);
    let error = |result: Result<_, CaError>| result.map(|_: IssuingCa| ()).unwrap_err();
    let certificate = || ca.certificate().clone();
    assert_eq!(error(IssuingCa::new(certificate(), root.key().clone())), CaError::Key);
    let root_certificate = root.certificate().clone();
    assert_eq!(error(IssuingCa::new(root_certificate, root.key().clone())), CaError::NotCa(0));
    let leaf = pki.credentials("spiffe://m/controller/c1");
    assert_eq!(error(IssuingCa::new(leaf.chain[0].clone(), leaf.key)), CaError::NotCa(0));
    assert_eq!(RootCa::new(certificate(), ca.key().clone()).unwrap_err(), CaError::NotCa(1));
    assert!(matches!(
        error(IssuingCa::new(vec![1, 2].into(), ca.key().clone())),
        CaError::Certificate(_)
    ));
}

#[test]
fn cas_loaded_from_disk_issue_certificates() {
    let pki = TestPki::at("mesh.example", NOW);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("ca");
    pki.root.save(&directory).unwrap();
    pki.ca.save(&directory).unwrap();

    let root = RootCa::load(&directory).unwrap();
    let ca = IssuingCa::load(&directory).unwrap();
    assert_eq!(root.certificate(), pki.root.certificate());
    assert_eq!(ca.certificate(), pki.ca.certificate());
    let chain = issue(&ca, &id("spiffe://mesh.example/ns/prod/edge/a"), LEAF, NOW).chain;
    pki.verifier(edges("prod")).judge(&chain, PeerSide::Client, NOW).unwrap();
    root.issuing_ca(NOW).unwrap();

    for (file, mode) in [
        ("root.pem", 0o644),
        ("root-key.pem", 0o600),
        ("issuing.pem", 0o644),
        ("issuing-key.pem", 0o600),
    ] {
        assert_eq!(mode_of(&directory.join(file)), mode, "{file}");
    }
}

#[test]
fn a_root_without_its_key_still_has_a_certificate_to_read() {
    let pki = TestPki::at("m", NOW);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("ca");
    pki.root.save(&directory).unwrap();
    fs::remove_file(directory.join(RootCa::KEY_FILE)).unwrap();
    let path = directory.join(RootCa::CERTIFICATE_FILE);
    assert_eq!(&read_certificate(&path).unwrap(), pki.root.certificate());
    assert!(matches!(RootCa::load(&directory), Err(CaFileError::File(_))));
}

#[test]
fn a_ca_is_never_overwritten() {
    let (first, second) = (TestPki::at("m", NOW), TestPki::at("m", NOW));
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("ca");
    first.ca.save(&directory).unwrap();
    assert!(second.ca.save(&directory).is_err());
    assert_eq!(IssuingCa::load(&directory).unwrap().certificate(), first.ca.certificate());
}

#[test]
fn a_cas_key_that_others_can_read_is_refused() {
    let pki = TestPki::at("m", NOW);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("ca");
    pki.ca.save(&directory).unwrap();
    let key = directory.join(IssuingCa::KEY_FILE);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = IssuingCa::load(&directory).unwrap_err().to_string();
    assert!(error.contains("0644") && error.contains("chmod 600"), "{error}");
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
