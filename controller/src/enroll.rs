//! Enrolment: a join token for a certificate.
//!
//! The token is used up in the transaction that records the certificate, with a comparison: of any number
//! of joins with one token, one has a certificate. A re-join denies, in the same transaction, whatever
//! unexpired certificates the edge had: its old key may be lost or in other hands.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cframe_pki::{
    Fingerprint,
    token::{TokenHash, TokenSecret},
};
use cframe_protocol::{
    frame::MAX_UNAUTHENTICATED,
    session::{CloseCode, FrameReader, FrameWriter},
    v1::{CallError, EnrollReply, EnrollRequest, Enrolled, ErrorCode},
};
use quinn::Connection;
use tokio::time::timeout;

use crate::{
    audit::{Act, Who},
    calls,
    check::{self, conflict},
    draft::Draft,
    issuing::{self, Issuer, verify_csr},
    model::State,
    record::{self, Key, TokenKey},
    server::Context,
};

/// From the handshake to the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves one enrolment and closes the connection.
pub async fn serve(context: &Arc<Context>, connection: &Connection) {
    let code = match timeout(PATIENCE, converse(context, connection)).await {
        Ok(Ok(())) => CloseCode::Done,
        Ok(Err(error)) => {
            let address = connection.remote_address();
            tracing::info!(%address, %error, "enrolment broken off");
            CloseCode::Protocol
        }
        Err(_) => CloseCode::Busy,
    };
    connection.close(code.into(), code.to_string().as_bytes());
}

async fn converse(context: &Arc<Context>, connection: &Connection) -> anyhow::Result<()> {
    let (send, receive) = connection.accept_bi().await?;
    let mut reader = FrameReader::new(receive, MAX_UNAUTHENTICATED);
    let Some(request) = reader.next::<EnrollRequest>().await? else { return Ok(()) };
    let token = TokenKey(request.token_id);
    let address = connection.remote_address();
    let act = act(context, token, address);
    let result = enroll(context, &act, request).await;
    context.mesh.settle(&act, result.as_ref().err());
    context.mesh.metrics.issued("enrollment", result.is_ok());
    match &result {
        Ok(enrolled) => tracing::info!(
            %address, %token, namespace = %enrolled.namespace, edge = %enrolled.edge,
            serial = issuing::serial(&enrolled.chain), "edge enrolled"
        ),
        Err(error) => tracing::warn!(%address, %token, %error, "enrolment refused"),
    }
    let mut writer = FrameWriter::new(send);
    writer.send(&EnrollReply { result }).await?;
    writer.finish();
    writer.delivered().await;
    Ok(())
}

/// The token says which edge it is for, whether or not its secret comes with it.
fn act(context: &Context, token: TokenKey, from: SocketAddr) -> Act {
    let mut act = Act::new(Who::Token(token), "join");
    act.from = Some(from);
    let edge = context.mesh.read(|state| {
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
    let secret: [u8; 16] = secret.as_slice().try_into().map_err(|_| unknown())?;
    let (key, secret) = (TokenKey(token_id), TokenSecret::from_bytes(secret));
    let mesh = &context.mesh;
    // Nothing is verified or signed for somebody without a token.
    let lane = mesh.read(|state| {
        usable(state, key, &secret, mesh.now()).map(|token| token.namespace.to_string())
    })?;
    let csr = verify_csr(&csr)?;
    let issuer = context.issuer.current();
    let decide = |state: &State| join(state, &issuer, key, &secret, &csr, mesh.now());
    mesh.write(&lane, act, decide).await.map(|(_, enrolled)| enrolled)
}

/// The decision.
fn join(
    state: &State,
    issuer: &Issuer,
    key: TokenKey,
    secret: &TokenSecret,
    csr: &cframe_pki::issue::VerifiedCsr,
    now: u64,
) -> Result<(Draft, Enrolled), CallError> {
    let token = usable(state, key, secret, now)?;
    let (namespace, name) = (&token.namespace, &token.edge);
    let space = check::namespace(state, namespace)?;
    let edge = calls::find_edge(space, namespace, name)?;
    let id = state.edge_id(namespace, name);
    if !token.rejoin && state.valid_certs(&id, now).next().is_some() {
        return Err(conflict(format!(
            "edge {name} of namespace {namespace} has joined already; to replace its certificate, make \
             another token with `cfctl token create --rejoin`"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    draft.rewrite(Key::Edge(namespace.clone(), name.clone()), edge);
    draft.compare(Key::Token(key), state.tokens.get(&key).map_or(0, |token| token.modified));
    draft.put(Key::Token(key), &record::Token { used: Some(now), ..token.clone() });
    calls::deny_certs(&mut draft, state, namespace, name, now, "the edge joined again");
    let mut issued = issuer.issue(state, csr, &id, now)?;
    issued.record.bundle = Some(state.mesh.record.revision);
    issued.record(&mut draft);
    let enrolled = calls::enrolled(state, issuer, namespace, name, &issued)?;
    Ok((draft, enrolled))
}

/// The token if this is its secret and it can be used. Whoever lacks the secret learns nothing of the token.
fn usable<'a>(
    state: &'a State,
    key: TokenKey,
    secret: &TokenSecret,
    now: u64,
) -> Result<&'a record::Token, CallError> {
    let token = state.tokens.get(&key).map(|token| &token.record);
    // An unknown token takes the time of a known one.
    let none = Fingerprint::from_bytes([0; 32]);
    let hash = token.map_or(none, |token| token.secret_hash);
    let matches = TokenHash::from_bytes(*hash.as_bytes()).matches(secret);
    let token = token.filter(|_| matches).ok_or_else(unknown)?;
    let refused = |why: String| CallError::new(ErrorCode::NotAllowed, why);
    if let Some(used) = token.used {
        return Err(refused(format!(
            "this join token was used {} s ago, and a token is good for one join; make another with \
             `cfctl token create`",
            now.saturating_sub(used)
        )));
    }
    if token.expires <= now {
        return Err(refused(format!(
            "this join token expired {} s ago; make another with `cfctl token create`",
            now - token.expires
        )));
    }
    Ok(token)
}

fn unknown() -> CallError {
    CallError::new(
        ErrorCode::NotAllowed,
        "this join token is not known here: it expired, was revoked, or is damaged; make another with \
         `cfctl token create`",
    )
}
