//! The join token's pin against false controllers.

use std::time::Duration;

use cframe_pki::{
    CertificateDer,
    tls::{Credentials, enroll_client, enroll_server},
    verifier::Refusal,
};
use cframe_test_pki::{TestPki, issue};
use rustls::{Error, ServerConfig};

use super::{constant, live, presenting};
use crate::{
    NOW,
    handshake::{handshake, pinned_clock},
    id,
};

const CONTROLLER: &str = "spiffe://m/controller/c1";

/// The joining edge's error for a server with this chain and `more` certificates.
fn verdict(
    pki: &TestPki,
    credentials: &Credentials,
    more: &[&CertificateDer<'static>],
) -> Result<(), Error> {
    let mut chain = credentials.chain.clone();
    chain.extend(more.iter().copied().cloned());
    let mut server: ServerConfig =
        enroll_server(&live(credentials.clone()), constant(pki.root.certificate()));
    server.cert_resolver = presenting(chain, &credentials.key);
    let (client, server) = pinned_clock(enroll_client(pki.root.spki_sha256()), server);
    let done = handshake(&client, &server);
    assert_eq!(done.client_error.is_none(), done.connected());
    done.client_error.map_or(Ok(()), Err)
}

fn pin_mismatch(verdict: Result<(), Error>) -> bool {
    verdict.is_err_and(|error| Refusal::of(&error) == Some(&Refusal::PinMismatch))
}

#[test]
fn a_controller_below_the_pinned_root_is_accepted() {
    let pki = TestPki::at("m", NOW);
    let controller = pki.credentials(CONTROLLER);
    assert_eq!(verdict(&pki, &controller, &[pki.root.certificate()]), Ok(()));
}

#[test]
fn without_the_pinned_root_in_the_chain_nothing_is_trusted() {
    let pki = TestPki::at("m", NOW);
    assert!(pin_mismatch(verdict(&pki, &pki.credentials(CONTROLLER), &[])));
    let impostor = TestPki::at("m", NOW);
    let credentials = impostor.credentials(CONTROLLER);
    assert!(pin_mismatch(verdict(&pki, &credentials, &[impostor.root.certificate()])));
}

#[test]
fn appending_the_pinned_root_to_another_chain_does_not_help() {
    let pki = TestPki::at("m", NOW);
    let impostor = TestPki::at("m", NOW);
    let credentials = impostor.credentials(CONTROLLER);
    let genuine = [pki.ca.certificate(), pki.root.certificate()];
    let error = verdict(&pki, &credentials, &genuine).unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn an_edge_or_admin_of_the_mesh_is_no_controller() {
    let pki = TestPki::at("m", NOW);
    for other in ["spiffe://m/ns/prod/edge/a", "spiffe://m/admin/a"] {
        let error = verdict(&pki, &pki.credentials(other), &[pki.root.certificate()]);
        let error = error.unwrap_err();
        assert_eq!(Refusal::of(&error).map(Refusal::label), Some("wrong_role"));
    }
}

#[test]
fn an_expired_controller_is_refused() {
    let pki = TestPki::at("m", NOW);
    let credentials = issue(&pki.ca, &id(CONTROLLER), Duration::from_secs(1), NOW - 60);
    let error = verdict(&pki, &credentials, &[pki.root.certificate()]).unwrap_err();
    assert!(error.to_string().contains("certificate expired"), "{error}");
}
