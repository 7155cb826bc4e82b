//! The trust that is replaced while verifiers use it.

use super::judge;
use crate::{
    CertificateDer,
    bundle::{DenyList, TrustBundle},
    issue::RootCa,
    testing::{LEAF, NOW, World, bundle, edges, issue},
    verifier::BundleError,
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
