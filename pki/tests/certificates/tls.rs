//! Handshakes between both ends of every TLS configuration.

mod credentials;
mod enrolment;
mod handshakes;
mod resumption;

use std::sync::Arc;

use cframe_pki::{
    CertificateDer,
    key::PrivateKey,
    tls::{Credentials, LiveCredentials, link_client, link_server, provider},
};
use cframe_test_pki::TestPki;
use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{edges, handshake::pinned_clock};

const DIALER: &str = "spiffe://m/ns/prod/edge/dialer";
const ACCEPTOR: &str = "spiffe://m/ns/prod/edge/acceptor";

fn live(credentials: Credentials) -> LiveCredentials {
    LiveCredentials::new(credentials).unwrap()
}

/// The two ends of a link.
fn link(pki: &TestPki) -> (ClientConfig, ServerConfig) {
    let verifier = pki.verifier(edges("prod"));
    (
        link_client(&live(pki.credentials(DIALER)), verifier.clone()),
        link_server(&live(pki.credentials(ACCEPTOR)), verifier),
    )
}

/// A root that is never rotated.
fn constant(
    root: &CertificateDer<'static>,
) -> impl Fn() -> CertificateDer<'static> + Send + Sync + 'static {
    let root = root.clone();
    move || root.clone()
}

fn linked(pki: &TestPki) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let (client, server) = link(pki);
    pinned_clock(client, server)
}

/// Shows `chain` in every handshake and signs with `key`, which need not belong to it.
fn presenting(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Arc<SingleCertAndKey> {
    let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey { cert: chain, key, ocsp: None }))
}
