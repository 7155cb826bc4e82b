//! Replacing the trust while verifiers use it.

use cframe_pki::{
    CertificateDer,
    bundle::{DenyList, TrustBundle},
    issue::{IssuingCa, RootCa, VerifiedCsr},
    key::PrivateKey,
    verifier::{BundleError, Refusal},
};
use cframe_test_pki::{TestPki, bundle, issue};
use proptest::prelude::*;

use super::judge;
use crate::{
    LEAF, NOW,
    crafted::{authority_key, params_of, sign_as},
    edges, id,
};

const EDGE: &str = "spiffe://m/ns/prod/edge/a";

#[test]
fn a_root_is_rotated_through_a_bundle_of_both() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let next = RootCa::generate(pki.root.mesh(), NOW).unwrap();
    let old = pki.credentials(EDGE).chain;
    let new = issue(&next.issuing_ca(NOW).unwrap(), &id(EDGE), LEAF, NOW).chain;
    let verdicts = || [&old, &new].map(|chain| judge(&verifier, chain).is_ok());

    assert_eq!(verdicts(), [true, false]);
    pki.trust.replace(bundle(&[&pki.root, &next]), DenyList::default()).unwrap();
    assert_eq!(verdicts(), [true, true]);
    pki.trust.replace(bundle(&[&next]), DenyList::default()).unwrap();
    assert_eq!(verdicts(), [false, true]);
}

#[test]
fn an_established_connection_is_found_when_its_root_is_removed() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let next = RootCa::generate(pki.root.mesh(), NOW).unwrap();
    pki.trust.replace(bundle(&[&pki.root, &next]), DenyList::default()).unwrap();
    let below = |ca: &IssuingCa| judge(&verifier, &issue(ca, &id(EDGE), LEAF, NOW).chain).unwrap();
    let (old, new) = (below(&pki.ca), below(&next.issuing_ca(NOW).unwrap()));
    assert_eq!([&old, &new].map(|peer| pki.trust.denial(peer)), [Ok(()), Ok(())]);

    pki.trust.replace(bundle(&[&next]), DenyList::default()).unwrap();
    assert_eq!(pki.trust.denial(&old), Err(Refusal::RootRemoved));
    assert_eq!(pki.trust.denial(&new), Ok(()));
    pki.trust.replace(bundle(&[&pki.root]), DenyList::default()).unwrap();
    assert_eq!(pki.trust.denial(&old), Ok(()), "and back");
    assert_eq!(pki.trust.denial(&new), Err(Refusal::RootRemoved));
}

#[test]
fn an_issuing_ca_that_two_roots_have_signed_depends_on_both() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let next = RootCa::generate(pki.root.mesh(), NOW).unwrap();
    let csr = VerifiedCsr::from_der(&pki.ca.key().csr().unwrap()).unwrap();
    let crossed = next.sign_issuing(&csr, NOW).unwrap();
    let crossed = IssuingCa::new(crossed, pki.ca.key().clone()).unwrap();
    pki.trust.replace(bundle(&[&pki.root, &next]), DenyList::default()).unwrap();
    let old = judge(&verifier, &pki.credentials(EDGE).chain).unwrap();

    pki.trust.replace(bundle(&[&next]), DenyList::default()).unwrap();
    assert_eq!(
        pki.trust.denial(&old),
        Err(Refusal::RootRemoved),
        "the only root that it has shown"
    );
    judge(&verifier, &issue(&crossed, &id(EDGE), LEAF, NOW).chain).unwrap();
    assert_eq!(pki.trust.denial(&old), Ok(()), "its issuing CA has shown the other root");
}

#[test]
fn a_certificates_claim_about_its_root_is_ignored() {
    // A stolen root that is being removed signs anything: here an issuing CA whose authority key identifier
    // is that of the new root.
    let pki = TestPki::at("m", NOW);
    let next = RootCa::generate(pki.root.mesh(), NOW).unwrap();
    let (key, leaf) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let mut params = params_of(pki.ca.certificate());
    params.custom_extensions.push(authority_key(&next));
    let forged = sign_as(&params, &key, pki.root.certificate(), pki.root.key());
    let forged = IssuingCa::new(forged, key).unwrap();
    let csr = VerifiedCsr::from_der(&leaf.csr().unwrap()).unwrap();
    let leaf = forged.issue(&csr, &EDGE.parse().unwrap(), LEAF, NOW).unwrap();
    let verifier = pki.verifier(edges("prod"));
    let peer = judge(&verifier, &[leaf.der, forged.certificate().clone()]).unwrap();
    pki.trust.replace(bundle(&[&next]), DenyList::default()).unwrap();
    assert_eq!(pki.trust.denial(&peer), Err(Refusal::RootRemoved));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// After any sequence of bundles, a chain is accepted exactly if its root is in the current one, and the
    /// same holds for connections that were accepted earlier.
    #[test]
    fn chains_follow_the_bundle(steps in proptest::collection::vec(1_u8..8, 1..8)) {
        let pki = TestPki::at("m", NOW);
        let verifier = pki.verifier(edges("prod"));
        let mesh = pki.root.mesh();
        let roots = [(); 3].map(|()| RootCa::generate(mesh, NOW).unwrap());
        let chains = roots.each_ref().map(|root| {
            issue(&root.issuing_ca(NOW).unwrap(), &id(EDGE), LEAF, NOW).chain
        });
        let mut standing = [const { None }; 3];
        for step in steps {
            let here = |index: usize| step & (1 << index) != 0;
            let chosen: Vec<&RootCa> = (0..3).filter(|i| here(*i)).map(|i| &roots[i]).collect();
            pki.trust.replace(bundle(&chosen), DenyList::default()).unwrap();
            for index in 0..3 {
                let verdict = judge(&verifier, &chains[index]);
                prop_assert_eq!(verdict.is_ok(), here(index));
                if let Some(peer) = &standing[index] {
                    prop_assert_eq!(pki.trust.denial(peer).is_ok(), here(index));
                }
                standing[index] = verdict.ok().or(standing[index].take());
            }
        }
    }
}

#[test]
fn an_empty_or_malformed_bundle_is_refused_and_the_old_one_stays() {
    let pki = TestPki::at("m", NOW);
    let before = pki.trust.bundle();
    let empty = pki.trust.replace(TrustBundle::default(), DenyList::default());
    assert_eq!(empty, Err(BundleError::Empty));

    let mut broken = before.clone();
    broken.roots.push(CertificateDer::from(vec![0x30, 0]));
    let error = pki.trust.replace(broken, DenyList::default()).unwrap_err();
    assert!(error.to_string().starts_with("root certificate 1 of the trust bundle"), "{error}");

    assert_eq!(pki.trust.bundle(), before);
    judge(&pki.verifier(edges("prod")), &pki.credentials(EDGE).chain).unwrap();
}
