//! Enrolment: a join token for a certificate.

use std::{sync::Arc, time::Duration};

use cframe_pki::{tls, token::JoinToken};
use tokio::time::{Instant, timeout_at};

use super::{Client, CloseCode, Connected, FrameReader, FrameWriter, Unreachable};
use crate::{
    frame::MAX_FRAME,
    v1::{CallError, Endpoint, EndpointError, EnrollReply, EnrollRequest, Enrolled},
};

/// Why an edge has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrollFailure {
    /// An address in the token is none.
    #[error("the token names a controller at no address: {0}")]
    Address(#[from] EndpointError),
    /// No controller of the token's mesh answers: none at all, or one with another root. The token
    /// was not sent and is still good.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The controller refuses, and says why.
    #[error(transparent)]
    Refused(#[from] CallError),
    /// The answer did not come or cannot be read. The token may have been used up.
    #[error("the controller's answer is missing: {0}; if joining again fails, make a new token")]
    Unanswered(String),
}

/// Joins a mesh. The token leaves this host only after a controller has shown a chain to the root
/// whose public key the token names.
///
/// `csr` is a PKCS #10 request in DER, `mark` as in [`Client`], `limit` for all of it.
///
/// # Errors
/// See [`EnrollFailure`].
pub async fn enroll(
    token: &JoinToken,
    csr: Vec<u8>,
    mark: Option<u32>,
    limit: Duration,
) -> Result<Enrolled, EnrollFailure> {
    let addresses: Result<Vec<Endpoint>, _> = token.addresses.iter().map(|a| a.parse()).collect();
    let client =
        Client { addresses: addresses?, tls: Arc::new(tls::enroll_client(token.pin)), mark };
    let request = EnrollRequest {
        token_id: *token.id.as_bytes(),
        secret: token.secret.as_bytes().to_vec(),
        csr,
    };
    let late = || EnrollFailure::Unanswered(format!("no answer within {} s", limit.as_secs()));
    let (deadline, mut busy) = (Instant::now() + limit, None);
    let connecting = client.connect_when_free(|unreachable| busy = Some(unreachable));
    let Ok(connected) = timeout_at(deadline, connecting).await else {
        // Nothing was sent: the token is still good.
        return Err(busy.map_or_else(late, EnrollFailure::Unreachable));
    };
    let connected = connected?;
    timeout_at(deadline, async {
        let reply = ask(&connected, &request).await;
        connected.close(CloseCode::Done).await;
        Ok(reply?.result?)
    })
    .await
    .unwrap_or_else(|_| Err(late()))
}

async fn ask(connected: &Connected, request: &EnrollRequest) -> Result<EnrollReply, EnrollFailure> {
    let unanswered = |error: &dyn std::error::Error| EnrollFailure::Unanswered(error.to_string());
    let (send, receive) = connected.connection.open_bi().await.map_err(|e| unanswered(&e))?;
    let mut writer = FrameWriter::new(send);
    writer.send(request).await.map_err(|e| unanswered(&e))?;
    writer.finish();
    let mut reader = FrameReader::new(receive, MAX_FRAME);
    let reply = reader.next::<EnrollReply>().await.map_err(|e| unanswered(&e))?;
    reply.ok_or_else(|| EnrollFailure::Unanswered("it is empty".into()))
}
