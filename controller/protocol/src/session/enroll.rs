//! Enrolment with a join token.

use std::{sync::Arc, time::Duration};

use cframe_pki::{tls, token::JoinToken};
use tokio::time::{Instant, timeout_at};

use super::{Client, CloseCode, Connected, FrameReader, FrameWriter, Unreachable};
use crate::{
    frame::MAX_FRAME,
    v1::{CallError, Endpoint, EndpointError, EnrollReply, EnrollRequest, Enrolled},
};

#[derive(Debug, thiserror::Error)]
pub enum EnrollFailure {
    #[error("the join token has an address of a controller that cannot be used: {0}")]
    Address(#[from] EndpointError),
    /// No controller answers, or only ones with another root. The token was not sent and is still valid.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error(transparent)]
    Refused(#[from] CallError),
    /// The answer is missing or malformed. The token may have been used.
    #[error("the controller's answer is missing: {0}; if joining again fails, make a new token")]
    Unanswered(String),
}

/// Gets a certificate for a join token. The secret is sent only to a controller whose chain leads to the
/// root that the token pins.
///
/// `csr` is PKCS#10 in DER, `mark` that of [`Client`]; `limit` covers all steps.
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
        // The token was not sent.
        return Err(busy.map_or_else(late, EnrollFailure::Unreachable));
    };
    let connected = connected?;
    timeout_at(deadline, async {
        let reply = request_certificate(&connected, &request).await;
        connected.close(CloseCode::Done).await;
        Ok(reply?.result?)
    })
    .await
    .unwrap_or_else(|_| Err(late()))
}

async fn request_certificate(
    connected: &Connected,
    request: &EnrollRequest,
) -> Result<EnrollReply, EnrollFailure> {
    let unanswered = |error: &dyn std::error::Error| EnrollFailure::Unanswered(error.to_string());
    let (send, receive) = connected.connection.open_bi().await.map_err(|e| unanswered(&e))?;
    let mut writer = FrameWriter::new(send);
    writer.send(request).await.map_err(|e| unanswered(&e))?;
    writer.finish();
    let mut reader = FrameReader::new(receive, MAX_FRAME);
    let reply = reader.next::<EnrollReply>().await.map_err(|e| unanswered(&e))?;
    reply.ok_or_else(|| EnrollFailure::Unanswered("it is empty".into()))
}
