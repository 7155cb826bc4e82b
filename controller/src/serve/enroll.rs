//! Enrolment: a connection on which an edge gets a certificate for a join token.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cframe_pki::token::TokenSecret;
use cframe_protocol::{
    frame::MAX_UNAUTHENTICATED,
    session::{CloseCode, FrameReader, FrameWriter},
    v1::{CallError, EnrollReply, EnrollRequest, Enrolled},
};
use quinn::Connection;
use tokio::time::timeout;

use super::address::canonical;
use crate::{
    audit::{Act, Who},
    context::Context,
    decide::{call::Lane, join},
    keys::issuer::{leaf_serial, verify_csr},
    model::{State, record::TokenKey},
};

/// From the handshake to the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one enrolment and closes the connection.
pub(super) async fn serve(context: &Arc<Context>, connection: &Connection) {
    let code = match timeout(TIMEOUT, serve_request(context, connection)).await {
        Ok(Ok(())) => CloseCode::Done,
        Ok(Err(error)) => {
            let address = canonical(connection.remote_address());
            tracing::info!(%address, %error, "enrolment failed");
            CloseCode::Protocol
        }
        Err(_) => CloseCode::Busy,
    };
    connection.close(code.into(), code.to_string().as_bytes());
}

async fn serve_request(context: &Arc<Context>, connection: &Connection) -> anyhow::Result<()> {
    let (send, receive) = connection.accept_bi().await?;
    let mut reader = FrameReader::new(receive, MAX_UNAUTHENTICATED);
    let Some(request) = reader.next::<EnrollRequest>().await? else { return Ok(()) };
    let token = TokenKey(request.token_id);
    let address = canonical(connection.remote_address());
    let act = act(context, token, address);
    let result = enroll(context, &act, request).await;
    context.replica.record_outcome(&act, result.as_ref().err());
    context.replica.metrics.issued("enrollment", result.is_ok());
    match &result {
        Ok(enrolled) => tracing::info!(
            %address, %token, namespace = %enrolled.namespace, edge = %enrolled.edge,
            serial = leaf_serial(&enrolled.chain), "edge enrolled"
        ),
        Err(error) => tracing::warn!(%address, %token, %error, "enrolment refused"),
    }
    let mut writer = FrameWriter::new(send);
    writer.send(&EnrollReply { result }).await?;
    writer.finish();
    writer.delivered().await;
    Ok(())
}

/// The record names the edge that the token is for, also if the secret is wrong.
fn act(context: &Context, token: TokenKey, from: SocketAddr) -> Act {
    let mut act = Act::new(Who::Token(token), "join");
    act.from = Some(from);
    let edge = context.replica.read(|state| {
        state
            .tokens
            .get(&token)
            .map(|token| (token.record.namespace.clone(), token.record.edge.clone()))
    });
    match edge {
        Some((namespace, edge)) => act.about(&namespace, &edge),
        None => act,
    }
}

async fn enroll(
    context: &Context,
    act: &Act,
    request: EnrollRequest,
) -> Result<Enrolled, CallError> {
    let EnrollRequest { token_id, secret, csr } = request;
    let secret: [u8; 16] = secret.as_slice().try_into().map_err(|_| join::unknown_token())?;
    let (key, secret) = (TokenKey(token_id), TokenSecret::from_bytes(secret));
    let replica = &context.replica;
    // Verifying and signing cost time: not before the token was checked.
    let lane = replica.read(|state| {
        join::usable_token(state, key, &secret, replica.now())
            .map(|token| Lane::Namespace(token.namespace.clone()))
    })?;
    let csr = verify_csr(&csr)?;
    let issuer = context.issuer.current();
    let decide = |state: &State| join::join(state, &issuer, (key, &secret), &csr, replica.now());
    replica.write(&lane, act, decide).await.map(|(_, enrolled)| enrolled)
}
