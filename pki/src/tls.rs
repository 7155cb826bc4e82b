//! rustls configurations: TLS 1.3 with client certificates, X25519MLKEM768 first, no resumption and
//! no 0-RTT.
//!
//! A resumed session skips the certificate verifier and would let a revoked peer in. So servers issue
//! no tickets and neither side stores sessions.

mod credentials;
mod enroll;

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, ConfigBuilder, ServerConfig, WantsVerifier,
    client::{Resumption, WantsClientCert, danger::ServerCertVerifier},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{
            cipher_suite::{
                TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
            },
            default_provider,
            kx_group::{SECP256R1, X25519, X25519MLKEM768},
        },
    },
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    version::TLS13,
};

use crate::verifier::{ALGORITHMS, PeerVerifier};

pub use credentials::{Credentials, CredentialsError, LiveCredentials};
pub use enroll::{enroll_client, enroll_server};

/// ALPN of links between edges.
pub const ALPN_LINK: &[u8] = b"cframe-mesh/1";
/// ALPN of sessions with a controller.
pub const ALPN_CONTROL: &[u8] = b"cframe-control/1";
/// ALPN of enrolment.
pub const ALPN_ENROLL: &[u8] = b"cframe-enroll/1";

/// The API of clients needs a server name. It is neither sent nor compared.
pub const SERVER_NAME: &str = "cframe.invalid";

/// aws-lc-rs with the suites of TLS 1.3, key exchange by X25519MLKEM768, X25519 or secp256r1, and
/// signatures by ECDSA P-256 only.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            Arc::new(CryptoProvider {
                cipher_suites: vec![
                    // rustls has AES-256 first. AES-128 is faster and has ample margin.
                    TLS13_AES_128_GCM_SHA256,
                    TLS13_AES_256_GCM_SHA384,
                    TLS13_CHACHA20_POLY1305_SHA256,
                ],
                kx_groups: vec![X25519MLKEM768, X25519, SECP256R1],
                signature_verification_algorithms: ALGORITHMS,
                ..default_provider()
            })
        })
        .clone()
}

/// The accepting end of a link. The verifier's policy is [`Edges`](crate::verifier::Policy::Edges).
pub fn link_server(credentials: &LiveCredentials, verifier: PeerVerifier) -> ServerConfig {
    server(credentials, verifier, ALPN_LINK)
}

/// The dialling end of a link. The verifier's policy is [`Edges`](crate::verifier::Policy::Edges).
pub fn link_client(credentials: &LiveCredentials, verifier: PeerVerifier) -> ClientConfig {
    client(credentials, verifier, ALPN_LINK)
}

/// The controller's end of a session. The verifier's policy is
/// [`ControlClients`](crate::verifier::Policy::ControlClients).
pub fn control_server(credentials: &LiveCredentials, verifier: PeerVerifier) -> ServerConfig {
    server(credentials, verifier, ALPN_CONTROL)
}

/// An edge's or admin's end of a session. The verifier's policy is
/// [`Controller`](crate::verifier::Policy::Controller).
pub fn control_client(credentials: &LiveCredentials, verifier: PeerVerifier) -> ClientConfig {
    client(credentials, verifier, ALPN_CONTROL)
}

fn server(credentials: &LiveCredentials, verifier: PeerVerifier, alpn: &[u8]) -> ServerConfig {
    let verifier: Arc<dyn ClientCertVerifier> = Arc::new(verifier);
    let config = server_builder()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(credentials.clone()));
    harden_server(config, alpn)
}

fn client(credentials: &LiveCredentials, verifier: PeerVerifier, alpn: &[u8]) -> ClientConfig {
    let config =
        client_builder(Arc::new(verifier)).with_client_cert_resolver(Arc::new(credentials.clone()));
    harden_client(config, alpn)
}

fn server_builder() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites and groups for TLS 1.3")
}

fn client_builder(
    verifier: Arc<dyn ServerCertVerifier>,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites and groups for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
}

fn harden_server(mut config: ServerConfig, alpn: &[u8]) -> ServerConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

fn harden_client(mut config: ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}
