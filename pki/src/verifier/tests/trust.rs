//! The trust that is replaced while verifiers use it.

use proptest::prelude::*;

use super::judge;
use crate::{
    CertificateDer,
    bundle::{DenyList, TrustBundle},
    issue::{IssuingCa, RootCa, VerifiedCsr},
    key::PrivateKey,
    testing::{LEAF, NOW, World, authority_key, bundle, edges, issue, params_of, sign_as},
    verifier::{BundleError, Refusal},
};

const EDGE: &str = "spiffe://m/ns/prod/edge/a";

#[test]
fn a_root_is_rotated_through_a_bundle_of_both() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let next = RootCa::generate(world.root.mesh(), NOW).unwrap();
    let old = world.credentials(EDGE).chain;
    let new = issue(&next.issuing_ca(NOW).unwrap(), EDGE, LEAF, NOW).chain;
    let verdicts = || [&old, &new].map(|chain| judge(&verifier, chain).is_ok());

    assert_eq!(verdicts(), [true, false]);
    world.trust.replace(bundle(&[&world.root, &next]), DenyList::default()).unwrap();
    assert_eq!(verdicts(), [true, true]);
    world.trust.replace(bundle(&[&next]), DenyList::default()).unwrap();
    assert_eq!(verdicts(), [false, true]);
}

#[test]
fn a_standing_connection_is_found_when_the_root_above_it_leaves() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let next = RootCa::generate(world.root.mesh(), NOW).unwrap();
    world.trust.replace(bundle(&[&world.root, &next]), DenyList::default()).unwrap();
    let below = |ca: &IssuingCa| judge(&verifier, &issue(ca, EDGE, LEAF, NOW).chain).unwrap();
    let (old, new) = (below(&world.ca), below(&next.issuing_ca(NOW).unwrap()));
    assert_eq!([&old, &new].map(|peer| world.trust.denial(peer)), [Ok(()), Ok(())]);

    world.trust.replace(bundle(&[&next]), DenyList::default()).unwrap();
    assert_eq!(world.trust.denial(&old), Err(Refusal::RootRemoved));
    assert_eq!(world.trust.denial(&new), Ok(()));
    world.trust.replace(bundle(&[&world.root]), DenyList::default()).unwrap();
    assert_eq!(world.trust.denial(&old), Ok(()), "and back");
    assert_eq!(world.trust.denial(&new), Err(Refusal::RootRemoved));
}

#[test]
fn an_issuing_ca_that_two_roots_have_signed_hangs_on_both() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let next = RootCa::generate(world.root.mesh(), NOW).unwrap();
    let csr = VerifiedCsr::from_der(&world.ca.key().csr().unwrap()).unwrap();
    let crossed = next.sign_issuing(&csr, NOW).unwrap();
    let crossed = IssuingCa::new(crossed, world.ca.key().clone()).unwrap();
    world.trust.replace(bundle(&[&world.root, &next]), DenyList::default()).unwrap();
    let old = judge(&verifier, &world.credentials(EDGE).chain).unwrap();

    world.trust.replace(bundle(&[&next]), DenyList::default()).unwrap();
    assert_eq!(world.trust.denial(&old), Err(Refusal::RootRemoved), "as far as it has shown");
    judge(&verifier, &issue(&crossed, EDGE, LEAF, NOW).chain).unwrap();
    assert_eq!(world.trust.denial(&old), Ok(()), "its issuing CA is a good one");
}

#[test]
fn what_a_certificate_says_of_its_root_counts_for_nothing() {
    // A root that was stolen, and is being removed for it, signs whatever its thief likes: here an issuing
    // CA whose authority key identifier is the new root's.
    let world = World::new("m");
    let next = RootCa::generate(world.root.mesh(), NOW).unwrap();
    let (key, leaf) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let mut params = params_of(world.ca.certificate());
    params.custom_extensions.push(authority_key(&next));
    let forged = sign_as(&params, &key, world.root.certificate(), world.root.key());
    let forged = IssuingCa::new(forged, key).unwrap();
    let csr = VerifiedCsr::from_der(&leaf.csr().unwrap()).unwrap();
    let leaf = forged.issue(&csr, &EDGE.parse().unwrap(), LEAF, NOW).unwrap();
    let verifier = world.verifier(edges("prod"));
    let peer = judge(&verifier, &[leaf.der, forged.certificate().clone()]).unwrap();
    world.trust.replace(bundle(&[&next]), DenyList::default()).unwrap();
    assert_eq!(world.trust.denial(&peer), Err(Refusal::RootRemoved));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the bundles were before: a chain is accepted exactly if its root is in the bundle of now, and
    /// a connection that was accepted stands exactly as long.
    #[test]
    fn chains_follow_the_bundle(steps in proptest::collection::vec(1_u8..8, 1..8)) {
        let world = World::new("m");
        let verifier = world.verifier(edges("prod"));
        let mesh = world.root.mesh();
        let roots = [(); 3].map(|()| RootCa::generate(mesh, NOW).unwrap());
        let chains = roots.each_ref().map(|root| {
            issue(&root.issuing_ca(NOW).unwrap(), EDGE, LEAF, NOW).chain
        });
        let mut standing = [const { None }; 3];
        for step in steps {
            let here = |index: usize| step & (1 << index) != 0;
            let chosen: Vec<&RootCa> = (0..3).filter(|i| here(*i)).map(|i| &roots[i]).collect();
            world.trust.replace(bundle(&chosen), DenyList::default()).unwrap();
            for index in 0..3 {
                let verdict = judge(&verifier, &chains[index]);
                prop_assert_eq!(verdict.is_ok(), here(index));
                if let Some(peer) = &standing[index] {
                    prop_assert_eq!(world.trust.denial(peer).is_ok(), here(index));
                }
                standing[index] = verdict.ok().or(standing[index].take());
            }
        }
    }
}

#[test]
fn a_bundle_that_would_cut_everything_off_is_refused_and_the_old_one_stays() {
    let world = World::new("m");
    let before = world.trust.bundle();
    let empty = world.trust.replace(TrustBundle::default(), DenyList::default());
    assert_eq!(empty, Err(BundleError::Empty));

    let mut broken = before.clone();
    broken.roots.push(CertificateDer::from(vec![0x30, 0]));
    let error = world.trust.replace(broken, DenyList::default()).unwrap_err();
    assert!(error.to_string().starts_with("root certificate 1 of the trust bundle"), "{error}");

    assert_eq!(world.trust.bundle(), before);
    judge(&world.verifier(edges("prod")), &world.credentials(EDGE).chain).unwrap();
}
