//! Names, roles, namespaces and times.

use std::sync::{Arc, Mutex};

use cframe_pki::{
    CertificateDer,
    identity::PeerIdentity,
    verifier::{PeerSide, PeerVerifier, Policy, Refusal},
};
use cframe_test_pki::TestPki;
use proptest::prelude::*;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::{
    AlertDescription, CertificateError, pki_types::UnixTime, server::danger::ClientCertVerifier,
};

use super::judge;
use crate::{
    DAY, NOW,
    crafted::{crafted, leaf_params},
    edges, id, label,
};

const EDGE: &str = "spiffe://m/ns/prod/edge/a";

#[test]
fn an_edge_of_the_namespace_is_accepted_and_named() {
    let pki = TestPki::at("m", NOW);
    let edge = pki.credentials(EDGE);
    let peer = judge(&pki.verifier(edges("prod")), &edge.chain).unwrap();
    assert_eq!(peer.id, id(EDGE));
    assert_eq!(peer.spki, edge.key.spki_sha256());
    assert_eq!(peer.issuer, Some(pki.ca.spki_sha256()));
    assert_eq!((peer.not_before, peer.not_after), (NOW - 3600, NOW + 30 * DAY));
    assert_eq!(PeerIdentity::from_chain(&edge.chain), Ok(peer));
}

#[test]
fn each_policy_accepts_its_roles_and_no_others() {
    let pki = TestPki::at("m", NOW);
    let ids = [EDGE, "spiffe://m/ns/test/edge/a", "spiffe://m/controller/a", "spiffe://m/admin/a"];
    let chains = ids.map(|id| pki.credentials(id).chain);
    let wrong = |role| Err(Refusal::WrongRole { role });
    let expected = [
        (
            edges("prod"),
            [Ok(()), Err(Refusal::WrongNamespace), wrong("controller"), wrong("admin")],
        ),
        (Policy::Controller, [wrong("edge"), wrong("edge"), Ok(()), wrong("admin")]),
        (Policy::ControlClients, [Ok(()), Ok(()), Ok(()), Ok(())]),
    ];
    for (policy, verdicts) in expected {
        let verifier = pki.verifier(policy);
        for ((chain, id), verdict) in chains.iter().zip(ids).zip(verdicts) {
            assert_eq!(judge(&verifier, chain).map(drop), verdict, "{verifier:?} {id}");
        }
    }
}

#[test]
fn an_edge_is_no_peer_of_itself() {
    let pki = TestPki::at("m", NOW);
    let policy = Policy::Edges { namespace: label("prod"), not_self: Some(label("a")) };
    let verifier = pki.verifier(policy);
    assert_eq!(judge(&verifier, &pki.credentials(EDGE).chain), Err(Refusal::IsSelf));
    judge(&verifier, &pki.credentials("spiffe://m/ns/prod/edge/b").chain).unwrap();
}

#[test]
fn a_function_can_be_the_policy() {
    let pki = TestPki::at("m", NOW);
    let policy = Policy::Custom(Arc::new(|id| match id.role.name() == "a" {
        true => Ok(()),
        false => Err(Refusal::Policy("not a".into())),
    }));
    let verifier = pki.verifier(policy);
    judge(&verifier, &pki.credentials(EDGE).chain).unwrap();
    let refusal = judge(&verifier, &pki.credentials("spiffe://m/admin/b").chain).unwrap_err();
    assert_eq!(refusal.to_string(), "not a");
}

#[test]
fn an_expired_certificate_is_refused() {
    let pki = TestPki::at("m", NOW);
    let chain = pki.credentials(EDGE).chain;
    let verifier = pki.verifier(edges("prod"));
    let not_after = NOW + 30 * DAY;
    verifier.judge(&chain, PeerSide::Client, not_after).unwrap();
    let now = not_after + 1;
    let refusal = verifier.judge(&chain, PeerSide::Client, now).unwrap_err();
    assert_eq!(refusal, Refusal::Expired { not_after, now });
    assert!(refusal.to_string().contains("expired 1 s ago"), "{refusal}");
}

#[test]
fn a_certificate_of_the_future_is_refused() {
    let pki = TestPki::at("m", NOW);
    let chain = pki.credentials(EDGE).chain;
    let verifier = pki.verifier(edges("prod"));
    verifier.judge(&chain, PeerSide::Client, NOW - 3600).unwrap();
    let refusal = verifier.judge(&chain, PeerSide::Client, NOW - 3601).unwrap_err();
    let expected = Refusal::NotYetValid { not_before: NOW - 3600, now: NOW - 3601 };
    assert_eq!(refusal, expected);
}

#[test]
fn another_meshs_edge_is_not_trusted() {
    let pki = TestPki::at("m", NOW);
    // The same names below another root.
    let other = TestPki::at("m", NOW).credentials(EDGE);
    let refusal = judge(&pki.verifier(edges("prod")), &other.chain).unwrap_err();
    assert_eq!(refusal.label(), "not_trusted");
}

#[test]
fn another_meshs_name_below_our_root_is_refused() {
    let pki = TestPki::at("m", NOW);
    let chain = crafted(&pki, &leaf_params(&["spiffe://n/ns/prod/edge/a"]));
    assert_eq!(judge(&pki.verifier(edges("prod")), &chain), Err(Refusal::WrongMesh));
}

#[test]
fn exactly_one_uri_and_nothing_else_is_a_name() {
    let pki = TestPki::at("m", NOW);
    let dns = SanType::DnsName("a.example".try_into().unwrap());
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let sets = [
        vec![],
        vec![dns.clone()],
        vec![uri(EDGE), uri(EDGE)],
        vec![uri(EDGE), uri("spiffe://m/admin/a")],
        vec![uri(EDGE), dns],
        vec![uri(EDGE), SanType::IpAddress([192, 0, 2, 1].into())],
        vec![uri(EDGE), SanType::Rfc822Name("a@example".try_into().unwrap())],
    ];
    let verifier = pki.verifier(edges("prod"));
    judge(&verifier, &crafted(&pki, &leaf_params(&[EDGE]))).unwrap();
    for names in sets {
        let mut params = leaf_params(&[]);
        params.subject_alt_names = names;
        let refusal = judge(&verifier, &crafted(&pki, &params)).unwrap_err();
        let label = refusal.label();
        assert_eq!(label, "malformed_identity", "{:?}: {refusal}", params.subject_alt_names);
    }
}

#[test]
fn a_uri_that_is_no_identity_is_refused() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    for uri in [
        "https://m/ns/prod/edge/a",
        "spiffe://m",
        "spiffe://m/",
        "spiffe://m/ns/prod/edge/",
        "spiffe://m/ns/prod/edge/a/",
        "spiffe://m/ns/prod/edge/a/b",
        "spiffe://m/ns/prod/edge/a?x=1",
        "spiffe://m:443/ns/prod/edge/a",
        "spiffe://m/ns/prod/Edge/a",
        "spiffe://m/ns/prod/edge/A",
        "spiffe://m/ns/prod//edge/a",
        "spiffe://m/ns/prod/edge/%61",
        "spiffe://u@m/ns/prod/edge/a",
    ] {
        let refusal = judge(&verifier, &crafted(&pki, &leaf_params(&[uri]))).unwrap_err();
        assert_eq!(refusal.label(), "malformed_identity", "{uri}: {refusal}");
    }
}

#[test]
fn a_serial_that_no_ca_of_ours_makes_is_refused() {
    let pki = TestPki::at("m", NOW);
    let mut params = leaf_params(&[EDGE]);
    params.serial_number = Some(vec![1; 17].into());
    let refusal = judge(&pki.verifier(edges("prod")), &crafted(&pki, &params)).unwrap_err();
    assert_eq!(refusal.label(), "malformed_identity");
}

#[test]
fn a_certificate_for_one_side_is_not_good_for_the_other() {
    let pki = TestPki::at("m", NOW);
    let mut params = leaf_params(&[EDGE]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let chain = crafted(&pki, &params);
    let verifier = pki.verifier(edges("prod"));
    verifier.judge(&chain, PeerSide::Server, NOW).unwrap();
    let refusal = verifier.judge(&chain, PeerSide::Client, NOW).unwrap_err();
    assert_eq!(refusal.label(), "not_trusted");
}

#[test]
fn the_observer_gets_the_reason_and_the_claimed_identity() {
    let pki = TestPki::at("m", NOW);
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let record = refusals.clone();
    let verifier = pki.verifier(edges("test")).with_observer(Arc::new(move |refusal, claim| {
        record.lock().unwrap().push((refusal.label(), claim.map(ToString::to_string)));
    }));
    let stranger = TestPki::at("m", NOW);
    for chain in [pki.credentials(EDGE).chain, stranger.credentials(EDGE).chain] {
        refuse_in_handshake(&verifier, &chain);
    }
    let expected = [("wrong_namespace", Some(EDGE.to_owned())), ("not_trusted", None)];
    assert_eq!(*refusals.lock().unwrap(), expected);
}

fn refuse_in_handshake(verifier: &PeerVerifier, chain: &[CertificateDer<'_>]) {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
    verifier.verify_client_cert(&chain[0], &chain[1..], now).unwrap_err();
}

#[test]
fn the_peer_gets_an_alert_for_what_it_can_fix() {
    let alert = |refusal: Refusal| match rustls::Error::from(refusal) {
        rustls::Error::InvalidCertificate(error) => AlertDescription::from(error),
        other => panic!("{other}"),
    };
    let expired = Refusal::Expired { not_after: 1, now: 2 };
    assert_eq!(alert(expired), AlertDescription::CertificateExpired);
    assert_eq!(alert(Refusal::Denied), AlertDescription::CertificateRevoked);
    assert_eq!(alert(Refusal::NotTrusted(String::new())), AlertDescription::UnknownCA);
    assert_eq!(alert(Refusal::WrongNamespace), AlertDescription::CertificateUnknown);

    let error = rustls::Error::from(Refusal::WrongNamespace);
    assert_eq!(Refusal::of(&error), Some(&Refusal::WrongNamespace));
    assert!(error.to_string().contains("an edge of another namespace"), "{error}");
    assert_eq!(Refusal::of(&CertificateError::Expired.into()), None);
}

proptest! {
    // Failures are not recorded: the keys are new in every run.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_damaged_chain_is_refused_without_a_panic(at: prop::sample::Index, bit in 0..8, which in 0..2usize) {
        let pki = TestPki::at("m", NOW);
        let mut chain = pki.credentials(EDGE).chain;
        let mut der = chain[which].to_vec();
        let at = at.index(der.len());
        der[at] ^= 1u8 << bit;
        chain[which] = CertificateDer::from(der);
        // Which fault is found first depends on the side.
        for side in [PeerSide::Client, PeerSide::Server] {
            prop_assert!(pki.verifier(edges("prod")).judge(&chain, side, NOW).is_err());
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(chain in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
        let pki = TestPki::at("m", NOW);
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        prop_assert!(judge(&pki.verifier(edges("prod")), &chain).is_err());
        prop_assert!(PeerIdentity::from_chain(&chain).is_err());
    }
}
