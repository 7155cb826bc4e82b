//! Join tokens.

use cframe_pki::{
    Fingerprint,
    identity::Label,
    token::{JoinToken, TokenHash, TokenId, TokenSecret},
};
use cframe_protocol::v1::{CallError, Endpoint, ErrorCode, Reply, TokenMade, TokenRow};

use crate::{
    decide::{
        check::{self, conflict, invalid},
        draft::Draft,
        edge,
        names::by_name,
    },
    model::{
        State, Stored,
        record::{Key, TokenKey, TokenRecord},
    },
};

/// Seconds.
const MAX_TTL: u32 = 86_400;

/// What `token create` asks for.
pub(crate) struct Wanted<'a> {
    pub(crate) namespace: &'a Label,
    pub(crate) edge: &'a Label,
    pub(crate) ttl_secs: u32,
    pub(crate) rejoin: bool,
    pub(crate) by: &'a Label,
}

/// A token's secret and what goes with it, generated before the decision.
pub(crate) struct NewToken {
    id: TokenId,
    secret: TokenSecret,
    pin: Fingerprint,
    /// The controller that makes the token, and its enrolment port.
    maker: Label,
    enroll_port: u16,
}

impl NewToken {
    pub(crate) fn generate(
        pin: Fingerprint,
        maker: Label,
        enroll_port: u16,
    ) -> Result<Self, CallError> {
        let failed = |_| CallError::new(ErrorCode::Internal, "the system's random source failed");
        Ok(Self {
            id: TokenId::generate().map_err(failed)?,
            secret: TokenSecret::generate().map_err(failed)?,
            pin,
            maker,
            enroll_port,
        })
    }
}

pub(crate) fn create(
    state: &State,
    wanted: &Wanted<'_>,
    new: &NewToken,
    now: u64,
) -> Result<(Draft, TokenMade), CallError> {
    let Wanted { namespace, edge, ttl_secs, rejoin, by } = *wanted;
    let space = check::namespace(state, namespace)?;
    let stored = edge::find(space, namespace, edge)?;
    if !(1..=MAX_TTL).contains(&ttl_secs) {
        return Err(invalid(format!(
            "a token is valid for 1 to {MAX_TTL} seconds, not {ttl_secs}"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    let valid = state.valid_certs(&state.edge_id(namespace, edge), now).count();
    if valid > 0 && !rejoin {
        return Err(conflict(format!(
            "edge {edge} of namespace {namespace} has joined already; to replace its certificate, give \
             --rejoin: the certificate that it has is denied when the token is used"
        )));
    }
    let expires = now + u64::from(ttl_secs);
    let token = TokenRecord {
        namespace: namespace.clone(),
        edge: edge.clone(),
        secret_hash: Fingerprint::from_bytes(*TokenHash::of(&new.secret).as_bytes()),
        created: now,
        expires,
        rejoin,
        created_by: by.to_string(),
        used: None,
    };
    // A concurrent removal of the edge must remove this token too.
    draft.rewrite(Key::Edge(namespace.clone(), edge.clone()), stored);
    let key = TokenKey(*new.id.as_bytes());
    draft.compare(Key::Token(key), 0);
    draft.put(Key::Token(key), &token);
    let made = TokenMade {
        token: join_token(state, new)?.expose().to_string(),
        id: key.to_string(),
        expires,
    };
    Ok((draft, made))
}

/// The token names the enrolment ports of the controllers: one address of each, then a second of each, as many as fit.
/// The maker comes first.
fn join_token(state: &State, new: &NewToken) -> Result<JoinToken, CallError> {
    let mut hosts: Vec<(&Label, u16, &[Endpoint])> = state
        .controllers
        .iter()
        .map(|(name, controller)| {
            let alive = state.alive.get(name).map(|alive| alive.record.enroll_port);
            let port = alive.filter(|_| *name != new.maker).unwrap_or(new.enroll_port);
            (name, port, controller.record.addresses.as_slice())
        })
        .collect();
    hosts.sort_by_key(|(name, ..)| (**name != new.maker, !state.alive.contains_key(*name)));
    let rounds = hosts.iter().map(|(_, _, addresses)| addresses.len()).max().unwrap_or(0);
    let mut found: Vec<String> = Vec::new();
    for round in 0..rounds {
        let of_each = hosts.iter().filter_map(|(_, port, all)| Some((all.get(round)?, port)));
        found.extend(of_each.map(|(endpoint, port)| enrolment(endpoint, *port)));
    }
    if found.is_empty() {
        // A store from before there were registrations.
        let all = state.mesh.record.controllers.iter();
        found.extend(all.map(|endpoint| enrolment(endpoint, new.enroll_port)));
    }
    found.truncate(cframe_pki::token::MAX_ADDRESSES);
    JoinToken::new(found, new.pin, new.id, new.secret.clone())
        .map_err(|error| CallError::new(ErrorCode::Internal, error.to_string()))
}

fn enrolment(controller: &Endpoint, port: u16) -> String {
    let host = controller.as_str().rsplit_once(':').map_or("", |(host, _)| host);
    format!("{host}:{port}")
}

pub(crate) fn revoke(state: &State, id: &str) -> Result<Draft, CallError> {
    let key: TokenKey = id.parse().map_err(|_| {
        if id.starts_with("cfj1.") {
            // A token is secret: it must not be in the message.
            return invalid(
                "this is a token and not its id, which has 32 lower-case hex digits; `cfctl token list` \
                 shows it",
            );
        }
        // It may be part of a token.
        invalid(format!(
            "this is not a token's id, which has 32 lower-case hex digits: it has {} characters; `cfctl token \
             list` shows the ids",
            id.chars().count()
        ))
    })?;
    let usable = state.tokens.get(&key).filter(|token| token.record.used.is_none());
    let Some(token) = usable else {
        return Err(CallError::new(
            ErrorCode::NotFound,
            format!(
                "no token {id} that can still be used; `cfctl token list` shows those that can"
            ),
        ));
    };
    let mut draft = Draft { namespace: Some(token.record.namespace.clone()), ..Draft::default() };
    draft.delete(Key::Token(key), token.modified);
    Ok(draft)
}

/// The tokens that can still be used.
pub(crate) fn list(state: &State, namespace: Option<&Label>, now: u64) -> Result<Reply, CallError> {
    if let Some(name) = namespace {
        check::namespace(state, name)?;
    }
    let rows = state.tokens.iter().filter_map(|token| row(token, now));
    let rows = rows.filter(|row| namespace.is_none_or(|name| row.namespace == *name));
    let mut rows: Vec<TokenRow> = rows.collect();
    rows.sort_by(|one, other| {
        by_name((&one.namespace, &one.edge), (&other.namespace, &other.edge))
    });
    Ok(Reply::Tokens(rows))
}

/// `None` if the token cannot be used any more.
fn row((id, token): (&TokenKey, &Stored<TokenRecord>), now: u64) -> Option<TokenRow> {
    let token = &token.record;
    (token.used.is_none() && token.expires > now).then(|| TokenRow {
        namespace: token.namespace.clone(),
        edge: token.edge.clone(),
        id: id.to_string(),
        created: token.created,
        expires: token.expires,
        rejoin: token.rejoin,
        created_by: token.created_by.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_an_id_is_not_in_the_error() {
        let state = crate::model::sample::state();
        for pasted in ["cfj1.c2VjcmV0", "c2VjcmV0LXBhcnQ"] {
            let error = revoke(&state, pasted).unwrap_err();
            assert!(!error.message.contains("c2VjcmV0"), "{error}");
            assert!(error.message.contains("32 lower-case hex digits"), "{error}");
        }
    }
}
