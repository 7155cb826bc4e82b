//! Joining: a join token for a certificate.
//!
//! The transaction that records the certificate also marks the token as used, with a comparison: of any number of joins
//! with one token, one succeeds. If the edge had unexpired certificates, the same transaction denies them: its old key
//! may be lost or stolen.

use cframe_pki::{
    Fingerprint,
    issue::VerifiedCsr,
    token::{TokenHash, TokenSecret},
};
use cframe_protocol::v1::{CallError, Enrolled, ErrorCode};

use super::{
    cert,
    check::{self, conflict},
    draft::Draft,
    edge,
};
use crate::{
    keys::issuer::Issuer,
    model::{
        State,
        record::{Key, TokenKey, TokenRecord},
    },
};

pub(crate) fn join(
    state: &State,
    issuer: &Issuer,
    (key, secret): (TokenKey, &TokenSecret),
    csr: &VerifiedCsr,
    now: u64,
) -> Result<(Draft, Enrolled), CallError> {
    let token = usable_token(state, key, secret, now)?;
    let (namespace, name) = (&token.namespace, &token.edge);
    let space = check::namespace(state, namespace)?;
    let found = edge::find(space, namespace, name)?;
    let id = state.edge_id(namespace, name);
    if !token.rejoin && state.valid_certs(&id, now).next().is_some() {
        return Err(conflict(format!(
            "edge {name} of namespace {namespace} has joined already; to replace its certificate, make \
             another token with `cfctl token create --rejoin`"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    edge::record_joined(&mut draft, (namespace, space), name, found);
    draft.compare(Key::Token(key), state.tokens.get(&key).map_or(0, |token| token.modified));
    draft.put(Key::Token(key), &TokenRecord { used: Some(now), ..token.clone() });
    edge::deny_certs(&mut draft, state, namespace, name, now, "the edge joined again");
    let mut issued = issuer.issue(state, csr, &id, now)?;
    issued.record.bundle = Some(state.mesh.record.revision);
    draft.put_cert(&issued);
    let enrolled = cert::enrolled(state, issuer, namespace, name, &issued)?;
    Ok((draft, enrolled))
}

/// The token, if the secret is right and it can still be used. Without the secret, the error says nothing about the
/// token.
pub(crate) fn usable_token<'a>(
    state: &'a State,
    key: TokenKey,
    secret: &TokenSecret,
    now: u64,
) -> Result<&'a TokenRecord, CallError> {
    let token = state.tokens.get(&key).map(|token| &token.record);
    // The check takes the same time for an unknown token.
    let none = Fingerprint::from_bytes([0; 32]);
    let hash = token.map_or(none, |token| token.secret_hash);
    let matches = TokenHash::from_bytes(*hash.as_bytes()).matches(secret);
    let token = token.filter(|_| matches).ok_or_else(unknown_token)?;
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

pub(crate) fn unknown_token() -> CallError {
    CallError::new(
        ErrorCode::NotAllowed,
        "this join token is not known here: it expired, was revoked, or is damaged; make another with \
         `cfctl token create`",
    )
}
