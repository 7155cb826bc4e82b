//! Enrolment: one bidirectional stream, opened by an edge that has a join token and no certificate.

use std::fmt;

use cframe_pki::{
    bundle::TrustBundle,
    identity::{Label, MeshName},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{CallError, Endpoint, Settings};
use crate::frame::message;

/// Edge → controller: a token for a certificate. Sent only to a server whose chain ends in the root
/// that the token names. At most 4 KiB as a frame.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// Which token.
    pub token_id: [u8; 16],
    /// The token's secret, 16 to 32 bytes.
    pub secret: Vec<u8>,
    /// PKCS #10 request in DER. Only its public key is used.
    pub csr: Vec<u8>,
}

/// Controller → edge: the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollReply {
    /// The certificate and all that an edge needs for its first session, or why there is none.
    pub result: Result<Enrolled, CallError>,
}

/// What an edge gets with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The mesh's name.
    pub mesh: MeshName,
    /// The edge's namespace.
    pub namespace: Label,
    /// The edge's name.
    pub edge: Label,
    /// Certificates in DER: the leaf, then its issuing CA.
    pub chain: Vec<Vec<u8>>,
    /// Whose certificates count.
    pub trust: TrustBundle,
    /// Where controllers are reached, on their control port.
    pub controllers: Vec<Endpoint>,
    /// The namespace's settings.
    pub settings: Settings,
    /// UDP port for links.
    pub listen_port: u16,
    /// What the edge was added with; all of its prefixes come with the first desired state.
    pub site_prefixes: Vec<IpNet>,
}

message!(EnrollRequest = 20);
message!(EnrollReply = 21);

impl fmt::Debug for EnrollRequest {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollRequest")
            .field("token_id", &self.token_id)
            .field("csr", &self.csr)
            .finish_non_exhaustive()
    }
}
