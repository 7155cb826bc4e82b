//! The decision about a chain, one reason at a time.

mod attacks;
mod identities;
mod trust;

use super::{PeerIdentity, PeerSide, PeerVerifier, Refusal};
use crate::{CertificateDer, testing::NOW};

fn judge(verifier: &PeerVerifier, chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, Refusal> {
    let as_client = verifier.judge(chain, PeerSide::Client, NOW);
    let as_server = verifier.judge(chain, PeerSide::Server, NOW);
    assert_eq!(as_client, as_server, "both ends decide alike");
    as_client
}
