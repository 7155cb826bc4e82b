//! rustls's traits for [`PeerVerifier`].

use rustls::{
    DistinguishedName, PeerIncompatible,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    pki_types::{ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{PeerSide, PeerVerifier};
use crate::CertificateDer;

/// The methods of a verifier that check the peer's signature over the handshake, which proves that it
/// has the leaf's key. TLS 1.2 fails with the given error.
macro_rules! signatures_of_tls13 {
    ($tls12:expr) => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _leaf: &rustls::pki_types::CertificateDer<'_>,
            _signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Err($tls12.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &$crate::verifier::ALGORITHMS;
            rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            $crate::verifier::ALGORITHMS.supported_schemes()
        }
    };
}

pub(crate) use signatures_of_tls13;

/// The server's name is ignored: the identity is the SPIFFE ID.
impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge_handshake(&join(leaf, rest), PeerSide::Server, now.as_secs())?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_of_tls13!(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig);
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// Empty, so that strangers don't learn the names of the mesh's CAs.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge_handshake(&join(leaf, rest), PeerSide::Client, now.as_secs())?;
        Ok(ClientCertVerified::assertion())
    }

    signatures_of_tls13!(PeerIncompatible::Tls12NotOffered);
}

/// One chain from the two parts that rustls passes. The bytes are not copied.
pub(crate) fn join<'a>(
    leaf: &'a CertificateDer<'_>,
    rest: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    [leaf].into_iter().chain(rest).map(|der| CertificateDer::from(der.as_ref())).collect()
}
