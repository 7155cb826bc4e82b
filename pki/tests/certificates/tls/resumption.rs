//! A resumed session skips verification, and early data is accepted before it: both must not happen.

use std::sync::Arc;

use cframe_pki::{
    CertificateDer,
    identity::PeerIdentity,
    tls::{SERVER_NAME, control_server, enroll_server},
    verifier::Policy,
};
use cframe_test_pki::TestPki;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, HandshakeKind, ServerConfig,
    crypto::aws_lc_rs::Ticketer, server::ServerSessionMemoryCache,
};

use super::{constant, link, live};
use crate::{
    NOW,
    handshake::{Outcome, handshake, pinned_clock, resuming},
};

/// A wrong configuration that issues tickets and accepts early data.
fn lenient(mut server: ServerConfig) -> ServerConfig {
    server.send_tls13_tickets = 2;
    server.session_storage = ServerSessionMemoryCache::new(16);
    server.max_early_data_size = u32::MAX;
    server
}

/// Both configurations after a first handshake, in which the client got its tickets if there are any.
fn connected_once(
    client: ClientConfig,
    server: ServerConfig,
) -> (Arc<ClientConfig>, Arc<ServerConfig>, Outcome) {
    let (client, server) = pinned_clock(client, server);
    let first = handshake(&client, &server);
    assert!(first.connected());
    assert_eq!(first.client.handshake_kind(), Some(HandshakeKind::Full));
    (client, server, first)
}

fn revoke(pki: &TestPki, leaf: &CertificateDer<'_>) {
    pki.deny(&PeerIdentity::from_chain(std::slice::from_ref(leaf)).unwrap());
}

#[test]
fn a_revoked_peer_cannot_resume() {
    let pki = TestPki::at("m", NOW);
    let (client, server) = link(&pki);
    let (client, server, first) = connected_once(resuming(client), server);

    let second = handshake(&client, &server);
    assert!(second.connected());
    assert_eq!(second.server.handshake_kind(), Some(HandshakeKind::Full), "and never resumed");

    revoke(&pki, &first.server.peer_certificates().unwrap()[0]);
    let third = handshake(&client, &server);
    assert_eq!(third.server_error, Some(CertificateError::Revoked.into()));
    let alert = Error::AlertReceived(AlertDescription::CertificateRevoked);
    assert_eq!(third.client_error, Some(alert));
}

/// Shows that the test above can fail.
#[test]
fn with_tickets_a_revoked_peer_would_resume() {
    let pki = TestPki::at("m", NOW);
    let (client, server) = link(&pki);
    for stateless in [false, true] {
        pki.trust.replace(pki.bundle(), Default::default()).unwrap();
        let mut server = lenient(server.clone());
        if stateless {
            server.max_early_data_size = 0;
            server.ticketer = Ticketer::new().unwrap();
        }
        let (client, server, first) = connected_once(resuming(client.clone()), server);
        revoke(&pki, &first.server.peer_certificates().unwrap()[0]);
        let second = handshake(&client, &server);
        assert!(second.connected());
        assert_eq!(second.server.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn a_revoked_acceptor_with_tickets_is_refused_by_the_dialer() {
    let pki = TestPki::at("m", NOW);
    let (client, server) = link(&pki);
    let server = lenient(server);

    let (strict, server, first) = connected_once(client.clone(), server);
    let (lax, _) = pinned_clock(resuming(client), server.as_ref().clone());
    assert!(handshake(&lax, &server).connected());
    let second = handshake(&strict, &server);
    assert_eq!(second.client.handshake_kind(), Some(HandshakeKind::Full));

    revoke(&pki, &first.client.peer_certificates().unwrap()[0]);
    let refused = handshake(&strict, &server);
    assert_eq!(refused.client_error, Some(CertificateError::Revoked.into()));
    let fooled = handshake(&lax, &server);
    assert_eq!(fooled.client.handshake_kind(), Some(HandshakeKind::Resumed), "the test can fail");
}

#[test]
fn early_data_is_impossible() {
    let pki = TestPki::at("m", NOW);
    let (client, server) = link(&pki);

    let (eager, server, _) = connected_once(resuming(client.clone()), server);
    assert!(!offers_early_data(&eager), "no ticket to send it with");

    let (eager, lax, _) =
        connected_once(resuming(client.clone()), lenient(server.as_ref().clone()));
    assert!(offers_early_data(&eager), "the test can fail");
    let second = handshake(&eager, &server);
    assert_eq!(second.server.handshake_kind(), Some(HandshakeKind::Full));

    let (strict, lax, _) = connected_once(client, lax.as_ref().clone());
    assert!(!offers_early_data(&strict), "our dialer sends none to an acceptor that accepts it");
    assert!(handshake(&strict, &lax).connected());
}

#[test]
fn no_configuration_keeps_sessions() {
    let pki = TestPki::at("m", NOW);
    let controller = live(pki.credentials("spiffe://m/controller/c1"));
    let servers = [
        link(&pki).1,
        control_server(&controller, pki.verifier(Policy::ControlClients)),
        enroll_server(&controller, constant(pki.root.certificate())),
    ];
    for server in servers {
        assert_eq!(server.send_tls13_tickets, 0);
        assert_eq!(server.max_early_data_size, 0);
        assert!(!server.session_storage.can_cache());
        assert!(!server.ticketer.enabled());
    }
}

fn offers_early_data(client: &Arc<ClientConfig>) -> bool {
    let name = SERVER_NAME.try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(client.clone(), name).unwrap();
    connection.early_data().is_some()
}
