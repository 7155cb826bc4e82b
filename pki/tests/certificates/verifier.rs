//! Decisions about chains, one reason at a time.

mod attacks;
mod identities;
mod trust;

use cframe_pki::{
    CertificateDer,
    identity::PeerIdentity,
    verifier::{PeerSide, PeerVerifier, Refusal},
};

use crate::NOW;

fn judge(verifier: &PeerVerifier, chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, Refusal> {
    let as_client = verifier.judge(chain, PeerSide::Client, NOW);
    let as_server = verifier.judge(chain, PeerSide::Server, NOW);
    assert_eq!(as_client, as_server, "both ends decide the same");
    as_client
}
