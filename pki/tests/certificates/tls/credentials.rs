//! Credentials on disk, and renewed while in use.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use cframe_pki::{
    identity::PeerIdentity,
    tls::{Credentials, link_client, link_server},
};
use cframe_test_pki::TestPki;

use super::{ACCEPTOR, DIALER, live};
use crate::{
    NOW, edges,
    handshake::{handshake, pinned_clock},
};

#[test]
fn credentials_are_saved_and_loaded_and_their_key_is_private() {
    let pki = TestPki::at("m", NOW);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("edge");
    let credentials = pki.credentials(DIALER);
    credentials.save(&directory).unwrap();
    let back = Credentials::load(&directory).unwrap();
    assert_eq!(back.identity().unwrap(), credentials.identity().unwrap());
    assert_eq!(back.chain, credentials.chain);
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("key.pem")), 0o600);
    assert_eq!(mode(&directory.join("cert.pem")), 0o644);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let pki = TestPki::at("m", NOW);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("edge");
    pki.credentials(DIALER).save(&directory).unwrap();
    let key = directory.join("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Credentials::load(&directory).unwrap_err().to_string();
    assert!(error.contains("0644") && error.contains("chmod 600"), "{error}");
}

#[test]
fn an_interrupted_renewal_leaves_a_pair_that_matches() {
    let pki = TestPki::at("m", NOW);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("edge");
    let (old, new) = (pki.credentials(DIALER), pki.credentials(DIALER));
    let serial = |at: &Path| Credentials::load(at).unwrap().identity().unwrap().serial;
    let (old_serial, new_serial) = (old.identity().unwrap().serial, new.identity().unwrap().serial);

    // The files of a complete renewal, put in place one by one below.
    let done = home.path().join("done");
    new.save(&done).unwrap();
    old.save(&directory).unwrap();
    assert_eq!(serial(&directory), old_serial);

    fs::copy(done.join("key.pem"), directory.join("key.next.pem")).unwrap();
    assert_eq!(serial(&directory), old_serial, "after the new key");

    fs::copy(done.join("cert.pem"), directory.join("cert.pem")).unwrap();
    assert_eq!(serial(&directory), new_serial, "after the new chain");
    assert!(!directory.join("key.next.pem").exists(), "the renewal was completed");
    assert_eq!(serial(&directory), new_serial);
}

#[test]
fn a_key_that_is_not_the_leafs_is_refused() {
    let pki = TestPki::at("m", NOW);
    let home = tempfile::tempdir().unwrap();
    let mut mixed = pki.credentials(DIALER);
    mixed.key = pki.credentials(DIALER).key;
    let error = mixed.save(&home.path().join("edge")).unwrap_err().to_string();
    assert!(error.contains("doesn't belong") && error.contains(DIALER), "{error}");
    assert!(!home.path().join("edge").exists(), "nothing was written");
}

#[test]
fn an_empty_or_broken_chain_is_refused() {
    let pki = TestPki::at("m", NOW);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("edge");
    pki.credentials(DIALER).save(&directory).unwrap();
    for text in ["", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        fs::write(directory.join("cert.pem"), text).unwrap();
        assert!(Credentials::load(&directory).is_err(), "{text}");
    }
}

#[test]
fn a_renewed_certificate_is_used_from_the_next_handshake_on() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let (dialer, acceptor) = (live(pki.credentials(DIALER)), live(pki.credentials(ACCEPTOR)));
    let (client, server) =
        pinned_clock(link_client(&dialer, verifier.clone()), link_server(&acceptor, verifier));
    let seen = || {
        let done = handshake(&client, &server);
        assert!(done.connected());
        let serial = |chain: Option<&[_]>| PeerIdentity::from_chain(chain.unwrap()).unwrap().serial;
        (serial(done.server.peer_certificates()), serial(done.client.peer_certificates()))
    };
    assert_eq!(seen(), (dialer.identity().serial, acceptor.identity().serial));
    let before = seen();
    dialer.replace(pki.credentials(DIALER)).unwrap();
    acceptor.replace(pki.credentials(ACCEPTOR)).unwrap();
    let after = seen();
    assert_eq!(after, (dialer.identity().serial, acceptor.identity().serial));
    assert!(after.0 != before.0 && after.1 != before.1);
}

#[test]
fn debug_prints_only_the_identity() {
    let pki = TestPki::at("m", NOW);
    let credentials = pki.credentials(DIALER);
    assert_eq!(format!("{credentials:?}"), format!("Credentials({DIALER})"));
    assert_eq!(format!("{:?}", live(credentials)), format!("LiveCredentials({DIALER})"));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
