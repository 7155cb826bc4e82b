//! The token's pin against false controllers.

use std::{sync::Arc, time::Duration};

use rustls::{
    Error, ServerConfig,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{constant, live};
use crate::{
    CertificateDer,
    testing::{NOW, World, handshake, pinned_clock},
    tls::{Credentials, enroll_client, enroll_server, provider},
    verifier::Refusal,
};

const CONTROLLER: &str = "spiffe://m/controller/c1";

/// What the joining edge says to a server with this chain.
fn verdict(
    world: &World,
    credentials: &Credentials,
    more: &[&CertificateDer<'static>],
) -> Result<(), Error> {
    let mut chain = credentials.chain.clone();
    chain.extend(more.iter().copied().cloned());
    let certified = CertifiedKey {
        cert: chain,
        key: provider().key_provider.load_private_key(credentials.key.to_rustls()).unwrap(),
        ocsp: None,
    };
    let mut server: ServerConfig =
        enroll_server(&live(credentials.clone()), constant(world.root.certificate()));
    server.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    let (client, server) = pinned_clock(enroll_client(world.root.spki_sha256()), server);
    let done = handshake(&client, &server);
    assert_eq!(done.client_error.is_none(), done.connected());
    done.client_error.map_or(Ok(()), Err)
}

fn pin_mismatch(verdict: Result<(), Error>) -> bool {
    verdict.is_err_and(|error| Refusal::of(&error) == Some(&Refusal::PinMismatch))
}

#[test]
fn the_pinned_root_vouches_for_its_controller() {
    let world = World::new("m");
    let controller = world.credentials(CONTROLLER);
    assert_eq!(verdict(&world, &controller, &[world.root.certificate()]), Ok(()));
}

#[test]
fn without_the_pinned_root_in_the_chain_nothing_is_trusted() {
    let world = World::new("m");
    assert!(pin_mismatch(verdict(&world, &world.credentials(CONTROLLER), &[])));
    let impostor = World::new("m");
    let credentials = impostor.credentials(CONTROLLER);
    assert!(pin_mismatch(verdict(&world, &credentials, &[impostor.root.certificate()])));
}

#[test]
fn the_pinned_root_below_somebody_elses_chain_vouches_for_nobody() {
    let world = World::new("m");
    let impostor = World::new("m");
    let credentials = impostor.credentials(CONTROLLER);
    let genuine = [world.ca.certificate(), world.root.certificate()];
    let error = verdict(&world, &credentials, &genuine).unwrap_err();
    assert!(matches!(error, Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn an_edge_or_admin_of_the_mesh_is_no_controller() {
    let world = World::new("m");
    for other in ["spiffe://m/ns/prod/edge/a", "spiffe://m/admin/a"] {
        let error = verdict(&world, &world.credentials(other), &[world.root.certificate()]);
        let error = error.unwrap_err();
        assert_eq!(Refusal::of(&error).map(Refusal::label), Some("wrong_role"));
    }
}

#[test]
fn an_expired_controller_is_refused() {
    let world = World::new("m");
    let credentials =
        crate::testing::issue(&world.ca, CONTROLLER, Duration::from_secs(1), NOW - 60);
    let error = verdict(&world, &credentials, &[world.root.certificate()]).unwrap_err();
    assert!(error.to_string().contains("certificate expired"), "{error}");
}
