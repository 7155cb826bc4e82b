//! Enrolment: one bidirectional stream, opened by an edge with a join token and no certificate.

use std::fmt;

use cframe_pki::{
    bundle::TrustBundle,
    identity::{Label, MeshName},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{CallError, Endpoint, Settings};
use crate::frame::message;

/// Edge → controller. Sent only to a server whose chain leads to the root that the token pins. The frame
/// has at most 4 KiB.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    pub token_id: [u8; 16],
    /// 16 to 32 bytes.
    pub secret: Vec<u8>,
    /// PKCS#10 in DER. Only its public key is used.
    pub csr: Vec<u8>,
}

/// Controller → edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollReply {
    pub result: Result<Enrolled, CallError>,
}

/// A new certificate, and what the edge needs for its first session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    pub mesh: MeshName,
    pub namespace: Label,
    pub edge: Label,
    /// In DER: the leaf, then its issuing CA.
    pub chain: Vec<Vec<u8>>,
    pub trust: TrustBundle,
    /// On their control port.
    pub controllers: Vec<Endpoint>,
    pub settings: Settings,
    pub listen_port: u16,
    /// Those of `edge add`. The first desired state has all prefixes.
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
