//! Which ends connect, and which don't.

use std::sync::{Arc, Mutex};

use cframe_pki::{
    identity::PeerIdentity,
    tls::{
        ALPN_CONTROL, ALPN_ENROLL, ALPN_LINK, control_client, control_server, enroll_client,
        enroll_server, link_client, link_server,
    },
    verifier::Policy,
};
use cframe_test_pki::TestPki;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, NamedGroup, ProtocolVersion,
    ServerConfig, version::TLS12,
};

use super::{ACCEPTOR, DIALER, constant, link, linked, live, presenting};
use crate::{
    NOW, edges,
    handshake::{handshake, pinned_clock},
    id,
};

const CONTROLLER: &str = "spiffe://m/controller/c1";
const ADMIN: &str = "spiffe://m/admin/root";

fn control(pki: &TestPki, who: &str) -> (ClientConfig, ServerConfig) {
    (
        control_client(&live(pki.credentials(who)), pki.verifier(Policy::Controller)),
        control_server(&live(pki.credentials(CONTROLLER)), pki.verifier(Policy::ControlClients)),
    )
}

fn enrolment(pki: &TestPki) -> (ClientConfig, ServerConfig) {
    let controller = live(pki.credentials(CONTROLLER));
    (
        enroll_client(pki.root.spki_sha256()),
        enroll_server(&controller, constant(pki.root.certificate())),
    )
}

#[test]
fn every_protocol_connects_its_two_ends_by_tls_1_3_and_ml_kem() {
    let pki = TestPki::at("m", NOW);
    let cases = [
        (link(&pki), ALPN_LINK, Some(DIALER), ACCEPTOR),
        (control(&pki, DIALER), ALPN_CONTROL, Some(DIALER), CONTROLLER),
        (control(&pki, ADMIN), ALPN_CONTROL, Some(ADMIN), CONTROLLER),
        (enrolment(&pki), ALPN_ENROLL, None, CONTROLLER),
    ];
    for ((client, server), alpn, client_id, server_id) in cases {
        let (client, server) = pinned_clock(client, server);
        let done = handshake(&client, &server);
        assert!(done.connected(), "{:?} {:?}", done.client_error, done.server_error);
        assert_eq!(done.client.alpn_protocol(), Some(alpn));
        assert_eq!(done.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = done.client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);

        let seen = PeerIdentity::from_chain(done.client.peer_certificates().unwrap()).unwrap();
        assert_eq!(seen.id, id(server_id));
        let seen = done
            .server
            .peer_certificates()
            .map(|chain| PeerIdentity::from_chain(chain).unwrap().id);
        assert_eq!(seen, client_id.map(id));
    }
}

#[test]
fn protocols_do_not_mix() {
    let pki = TestPki::at("m", NOW);
    let (link_client, link_server) = link(&pki);
    let (control_client, control_server) = control(&pki, DIALER);
    let (enroll_client, enroll_server) = enrolment(&pki);
    for (client, server) in [
        (link_client, control_server),
        (control_client, enroll_server),
        (enroll_client, link_server),
    ] {
        let (client, server) = pinned_clock(client, server);
        let done = handshake(&client, &server);
        assert_eq!(done.server_error, Some(Error::NoApplicationProtocol));
    }
}

#[test]
fn both_ends_of_a_link_refuse_other_roles_and_namespaces() {
    let pki = TestPki::at("m", NOW);
    let verifier = pki.verifier(edges("prod"));
    let prod = live(pki.credentials(DIALER));
    for other in ["spiffe://m/ns/test/edge/x", CONTROLLER, ADMIN] {
        let other = live(pki.credentials(other));
        let any = pki.verifier(Policy::Custom(Arc::new(|_| Ok(()))));
        let (client, server) =
            pinned_clock(link_client(&other, any.clone()), link_server(&prod, verifier.clone()));
        let done = handshake(&client, &server);
        assert!(matches!(done.server_error, Some(Error::InvalidCertificate(_))));
        // In TLS 1.3 the client finishes before the server has verified it and then gets the alert.
        let alert = Error::AlertReceived(AlertDescription::CertificateUnknown);
        assert_eq!(done.client_error, Some(alert));

        let (client, server) =
            pinned_clock(link_client(&prod, verifier.clone()), link_server(&other, any));
        let done = handshake(&client, &server);
        assert!(matches!(done.client_error, Some(Error::InvalidCertificate(_))));
        assert!(!done.connected());
    }
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let pki = TestPki::at("m", NOW);
    let (_, server) = link(&pki);
    let mut client = enroll_client(pki.root.spki_sha256());
    client.alpn_protocols = vec![ALPN_LINK.to_vec()];
    client.dangerous().set_certificate_verifier(Arc::new(pki.verifier(edges("prod"))));
    let (client, server) = pinned_clock(client, server);
    let done = handshake(&client, &server);
    assert_eq!(done.server_error, Some(Error::NoCertificatesPresented));
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let pki = TestPki::at("m", NOW);
    let (victim, thief) = (pki.credentials(DIALER), pki.credentials(DIALER));
    let (mut client, mut server) = link(&pki);
    let resolver = presenting(victim.chain, &thief.key);
    client.client_auth_cert_resolver = resolver.clone();
    let (_, honest) = link(&pki);
    let (thief, honest) = pinned_clock(client, honest);
    let done = handshake(&thief, &honest);
    assert_eq!(done.server_error, Some(CertificateError::BadSignature.into()));

    server.cert_resolver = resolver;
    let (honest, thief) = pinned_clock(link(&pki).0, server);
    let done = handshake(&honest, &thief);
    assert_eq!(done.client_error, Some(CertificateError::BadSignature.into()));
}

#[test]
fn tls_1_2_is_refused() {
    let pki = TestPki::at("m", NOW);
    let (_, server) = link(&pki);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pki.verifier(edges("prod"))))
        .with_client_cert_resolver(Arc::new(live(pki.credentials(DIALER))));
    let (client, server) = pinned_clock(client, server);
    let done = handshake(&client, &server);
    assert!(matches!(done.server_error, Some(Error::PeerIncompatible(_))));
}

#[test]
fn no_name_crosses_the_wire_in_the_clear() {
    let pki = TestPki::at("m", NOW);
    let (client, server) = linked(&pki);
    let done = handshake(&client, &server);
    assert!(done.connected());
    for name in ["dialer", "acceptor", "prod", "spiffe", "cframe.invalid", "cframe root"] {
        let found = done.wire.windows(name.len()).any(|window| window == name.as_bytes());
        assert!(!found, "{name}");
    }
}

#[test]
fn the_refusing_end_gets_the_reason() {
    let pki = TestPki::at("m", NOW);
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let record = refusals.clone();
    let verifier = pki.verifier(edges("prod")).with_observer(Arc::new(move |refusal, claim| {
        record.lock().unwrap().push((refusal.label(), claim.cloned()));
    }));
    let other = "spiffe://m/ns/test/edge/x";
    let any = pki.verifier(Policy::Custom(Arc::new(|_| Ok(()))));
    let (client, server) = pinned_clock(
        link_client(&live(pki.credentials(other)), any),
        link_server(&live(pki.credentials(ACCEPTOR)), verifier),
    );
    let done = handshake(&client, &server);
    assert_eq!(*refusals.lock().unwrap(), [("wrong_namespace", Some(id(other)))]);
    let error = done.server_error.unwrap();
    assert!(error.to_string().contains("an edge of another namespace"), "{error}");
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::Other(_))));
}
