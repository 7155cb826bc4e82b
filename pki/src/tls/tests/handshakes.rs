//! What connects, with what, and what doesn't.

use std::sync::{Arc, Mutex};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, NamedGroup, ProtocolVersion,
    ServerConfig,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS12,
};

use super::{ACCEPTOR, DIALER, constant, link, linked, live};
use crate::{
    testing::{World, edges, handshake, id, pinned_clock},
    tls::{
        ALPN_CONTROL, ALPN_ENROLL, ALPN_LINK, control_client, control_server, enroll_client,
        enroll_server, link_client, link_server, provider,
    },
    verifier::{Policy, peer_identity},
};

const CONTROLLER: &str = "spiffe://m/controller/c1";
const ADMIN: &str = "spiffe://m/admin/root";

fn control(world: &World, who: &str) -> (ClientConfig, ServerConfig) {
    (
        control_client(&live(world.credentials(who)), world.verifier(Policy::Controller)),
        control_server(
            &live(world.credentials(CONTROLLER)),
            world.verifier(Policy::ControlClients),
        ),
    )
}

fn enrolment(world: &World) -> (ClientConfig, ServerConfig) {
    let controller = live(world.credentials(CONTROLLER));
    (
        enroll_client(world.root.spki_sha256()),
        enroll_server(&controller, constant(world.root.certificate())),
    )
}

#[test]
fn every_protocol_connects_its_two_ends_by_tls_1_3_and_ml_kem() {
    let world = World::new("m");
    let cases = [
        (link(&world), ALPN_LINK, Some(DIALER), ACCEPTOR),
        (control(&world, DIALER), ALPN_CONTROL, Some(DIALER), CONTROLLER),
        (control(&world, ADMIN), ALPN_CONTROL, Some(ADMIN), CONTROLLER),
        (enrolment(&world), ALPN_ENROLL, None, CONTROLLER),
    ];
    for ((client, server), alpn, client_id, server_id) in cases {
        let (client, server) = pinned_clock(client, server);
        let done = handshake(&client, &server);
        assert!(done.connected(), "{:?} {:?}", done.client_error, done.server_error);
        assert_eq!(done.client.alpn_protocol(), Some(alpn));
        assert_eq!(done.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = done.client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);

        let seen = peer_identity(done.client.peer_certificates().unwrap()).unwrap();
        assert_eq!(seen.id, id(server_id));
        let seen = done.server.peer_certificates().map(|chain| peer_identity(chain).unwrap().id);
        assert_eq!(seen, client_id.map(id));
    }
}

#[test]
fn protocols_do_not_mix() {
    let world = World::new("m");
    let (link_client, link_server) = link(&world);
    let (control_client, control_server) = control(&world, DIALER);
    let (enroll_client, enroll_server) = enrolment(&world);
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
fn both_ends_of_a_link_refuse_whom_they_should() {
    let world = World::new("m");
    let verifier = world.verifier(edges("prod"));
    let prod = live(world.credentials(DIALER));
    for other in ["spiffe://m/ns/test/edge/x", CONTROLLER, ADMIN] {
        let other = live(world.credentials(other));
        let any = world.verifier(Policy::Custom(Arc::new(|_| Ok(()))));
        let (client, server) =
            pinned_clock(link_client(&other, any.clone()), link_server(&prod, verifier.clone()));
        let done = handshake(&client, &server);
        assert!(matches!(done.server_error, Some(Error::InvalidCertificate(_))));
        // In TLS 1.3 a client is done before the server has judged it; it hears by the alert.
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
    let world = World::new("m");
    let (_, server) = link(&world);
    let mut client = enroll_client(world.root.spki_sha256());
    client.alpn_protocols = vec![ALPN_LINK.to_vec()];
    client.dangerous().set_certificate_verifier(Arc::new(world.verifier(edges("prod"))));
    let (client, server) = pinned_clock(client, server);
    let done = handshake(&client, &server);
    assert_eq!(done.server_error, Some(Error::NoCertificatesPresented));
}

#[test]
fn a_certificate_without_its_key_is_of_no_use() {
    let world = World::new("m");
    let (victim, thief) = (world.credentials(DIALER), world.credentials(DIALER));
    let forged = CertifiedKey {
        cert: victim.chain,
        key: provider().key_provider.load_private_key(thief.key.to_rustls()).unwrap(),
        ocsp: None,
    };
    let (mut client, mut server) = link(&world);
    let resolver = Arc::new(SingleCertAndKey::from(forged));
    client.client_auth_cert_resolver = resolver.clone();
    let (_, honest) = link(&world);
    let (thief, honest) = pinned_clock(client, honest);
    let done = handshake(&thief, &honest);
    assert_eq!(done.server_error, Some(CertificateError::BadSignature.into()));

    server.cert_resolver = resolver;
    let (honest, thief) = pinned_clock(link(&world).0, server);
    let done = handshake(&honest, &thief);
    assert_eq!(done.client_error, Some(CertificateError::BadSignature.into()));
}

#[test]
fn tls_1_2_is_refused() {
    let world = World::new("m");
    let (_, server) = link(&world);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(world.verifier(edges("prod"))))
        .with_client_cert_resolver(Arc::new(live(world.credentials(DIALER))));
    let (client, server) = pinned_clock(client, server);
    let done = handshake(&client, &server);
    assert!(matches!(done.server_error, Some(Error::PeerIncompatible(_))));
}

#[test]
fn no_name_crosses_the_wire_in_the_clear() {
    let world = World::new("m");
    let (client, server) = linked(&world);
    let done = handshake(&client, &server);
    assert!(done.connected());
    for name in ["dialer", "acceptor", "prod", "spiffe", "cframe.invalid", "cframe root"] {
        let found = done.wire.windows(name.len()).any(|window| window == name.as_bytes());
        assert!(!found, "{name}");
    }
}

#[test]
fn the_refusing_end_is_told_the_reason() {
    let world = World::new("m");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let record = heard.clone();
    let verifier = world.verifier(edges("prod")).with_observer(Arc::new(move |refusal, claim| {
        record.lock().unwrap().push((refusal.label(), claim.cloned()));
    }));
    let other = "spiffe://m/ns/test/edge/x";
    let any = world.verifier(Policy::Custom(Arc::new(|_| Ok(()))));
    let (client, server) = pinned_clock(
        link_client(&live(world.credentials(other)), any),
        link_server(&live(world.credentials(ACCEPTOR)), verifier),
    );
    let done = handshake(&client, &server);
    assert_eq!(*heard.lock().unwrap(), [("wrong_namespace", Some(id(other)))]);
    let error = done.server_error.unwrap();
    assert!(error.to_string().contains("WrongNamespace"), "{error}");
    assert!(matches!(error, Error::InvalidCertificate(CertificateError::Other(_))));
}
