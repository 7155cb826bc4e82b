//! TLS for enrolment, where the client has a join token's pin and no certificate yet.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, PeerIncompatible, ServerConfig,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    pki_types::{ServerName, TrustAnchor, UnixTime},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    ALPN_ENROLL, LiveCredentials, client_builder, harden_client, harden_server, server_builder,
};
use crate::{
    CertificateDer, Fingerprint,
    identity::PeerIdentity,
    verifier::{Policy, Refusal, join, signatures_of_tls13, verify_chain},
};

/// The controller's end: no client certificate, and a chain with the root, which the client compares
/// with its pin. `root` is called in each handshake, because a rotation replaces the root along with
/// the credentials.
pub fn enroll_server(
    credentials: &LiveCredentials,
    root: impl Fn() -> CertificateDer<'static> + Send + Sync + 'static,
) -> ServerConfig {
    let root = Box::new(root);
    let config = server_builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(WithRoot { credentials: credentials.clone(), root }));
    harden_server(config, ALPN_ENROLL)
}

/// The new edge's end. The handshake fails unless the server is a controller whose chain leads to the
/// root with the public key `pin`.
pub fn enroll_client(pin: Fingerprint) -> ClientConfig {
    let config = client_builder(Arc::new(PinVerifier { pin })).with_no_client_auth();
    harden_client(config, ALPN_ENROLL)
}

struct WithRoot {
    credentials: LiveCredentials,
    root: Box<dyn Fn() -> CertificateDer<'static> + Send + Sync>,
}

impl fmt::Debug for WithRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WithRoot({:?})", self.credentials)
    }
}

impl ResolvesServerCert for WithRoot {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut certified = self.credentials.certified().as_ref().clone();
        certified.cert.push((self.root)());
        Some(Arc::new(certified))
    }
}

#[derive(Debug)]
struct PinVerifier {
    pin: Fingerprint,
}

impl PinVerifier {
    fn judge(&self, chain: &[CertificateDer<'_>], now: u64) -> Result<(), Refusal> {
        let root = chain.iter().skip(1).find_map(|der| self.pinned(der));
        let root = root.ok_or(Refusal::PinMismatch)?;
        verify_chain(chain, &[root], now, webpki::KeyUsage::server_auth())?;
        let controller = PeerIdentity::from_chain(chain)?;
        Policy::Controller.admit(&controller.id)
    }

    /// The certificate as a trust anchor, if it has the pinned key. Nothing else in it is verified or
    /// used: the chain is valid because this key has signed it.
    fn pinned<'a>(&self, der: &'a CertificateDer<'_>) -> Option<TrustAnchor<'a>> {
        let anchor = webpki::anchor_from_trusted_cert(der).ok()?;
        let spki = webpki::spki_for_anchor(&anchor);
        (Fingerprint::of_spki(&spki) == self.pin).then_some(anchor)
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(&join(leaf, rest), now.as_secs())?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_of_tls13!(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig);
}
