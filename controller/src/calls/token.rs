//! Join tokens: pure decisions, apart from the secret, which is made before.

use cframe_pki::{
    Fingerprint,
    identity::Label,
    token::{JoinToken, TokenHash, TokenId, TokenSecret},
};
use cframe_protocol::v1::{CallError, Endpoint, ErrorCode, TokenMade, TokenRow};

use crate::{
    check::{self, conflict, invalid},
    draft::Draft,
    model::{State, Stored},
    record::{self, Key, TokenKey},
};

/// The longest that a token may live.
const MAX_TTL: u32 = 86_400;

/// What `token create` asks for.
pub(super) struct Wanted<'a> {
    pub(super) namespace: &'a Label,
    pub(super) edge: &'a Label,
    pub(super) ttl_secs: u32,
    pub(super) rejoin: bool,
    pub(super) by: &'a Label,
}

/// A token with what the store keeps of it.
pub(super) struct Fresh {
    id: TokenId,
    secret: TokenSecret,
    pin: Fingerprint,
    /// The controller that makes it, and its port of enrolment.
    maker: Label,
    enroll_port: u16,
}

impl Fresh {
    pub(super) fn generate(
        pin: Fingerprint,
        maker: Label,
        enroll_port: u16,
    ) -> Result<Self, CallError> {
        let random = |_| CallError::new(ErrorCode::Internal, "the system's random source failed");
        Ok(Self {
            id: TokenId::generate().map_err(random)?,
            secret: TokenSecret::generate().map_err(random)?,
            pin,
            maker,
            enroll_port,
        })
    }
}

pub(super) fn create(
    state: &State,
    wanted: &Wanted<'_>,
    fresh: &Fresh,
    now: u64,
) -> Result<(Draft, TokenMade), CallError> {
    let Wanted { namespace, edge, ttl_secs, rejoin, by } = *wanted;
    let space = check::namespace(state, namespace)?;
    let found = super::edge::find(space, namespace, edge)?;
    if !(1..=MAX_TTL).contains(&ttl_secs) {
        return Err(invalid(format!("a token lives 1 to {MAX_TTL} seconds, not {ttl_secs}")));
    }
    let mut draft = Draft::within(namespace, space);
    let valid = state.valid_certs(&state.edge_id(namespace, edge), now).count();
    if valid > 0 && !rejoin {
        return Err(conflict(format!(
            "edge {edge} of namespace {namespace} has joined already; to replace its certificate, give \
             --rejoin: the one that it has is denied when the token is used"
        )));
    }
    let expires = now + u64::from(ttl_secs);
    let token = record::Token {
        namespace: namespace.clone(),
        edge: edge.clone(),
        secret_hash: Fingerprint::from_bytes(*TokenHash::of(&fresh.secret).as_bytes()),
        created: now,
        expires,
        rejoin,
        created_by: by.to_string(),
        used: None,
    };
    // Whoever removes the edge removes its tokens.
    draft.rewrite(Key::Edge(namespace.clone(), edge.clone()), found);
    let key = TokenKey(*fresh.id.as_bytes());
    draft.compare(Key::Token(key), 0);
    draft.put(Key::Token(key), &token);
    let made = TokenMade {
        token: join_token(state, fresh)?.expose().to_string(),
        id: key.to_string(),
        expires,
    };
    Ok((draft, made))
}

/// Enrolment is on a port of its own, on the hosts that the controllers have: one address of each, then a
/// second of each, as many as a token holds. The maker's are first.
fn join_token(state: &State, fresh: &Fresh) -> Result<JoinToken, CallError> {
    let mut hosts: Vec<(&Label, u16, &[Endpoint])> = state
        .controllers
        .iter()
        .map(|(name, controller)| {
            let alive = state.alive.get(name).map(|alive| alive.record.enroll_port);
            let port = alive.filter(|_| *name != fresh.maker).unwrap_or(fresh.enroll_port);
            (name, port, controller.record.addresses.as_slice())
        })
        .collect();
    hosts.sort_by_key(|(name, ..)| (**name != fresh.maker, !state.alive.contains_key(*name)));
    let most = hosts.iter().map(|(_, _, addresses)| addresses.len()).max().unwrap_or(0);
    let mut found: Vec<String> = Vec::new();
    for place in 0..most {
        let of_each = hosts.iter().filter_map(|(_, port, all)| Some((all.get(place)?, port)));
        found.extend(of_each.map(|(endpoint, port)| enrolment(endpoint, *port)));
    }
    if found.is_empty() {
        // A store from before there were registrations.
        let all = state.mesh.record.controllers.iter();
        found.extend(all.map(|endpoint| enrolment(endpoint, fresh.enroll_port)));
    }
    found.truncate(cframe_pki::token::MAX_ADDRESSES);
    JoinToken::new(found, fresh.pin, fresh.id, fresh.secret.clone())
        .map_err(|error| CallError::new(ErrorCode::Internal, error.to_string()))
}

fn enrolment(controller: &Endpoint, port: u16) -> String {
    let host = controller.as_str().rsplit_once(':').map_or("", |(host, _)| host);
    format!("{host}:{port}")
}

pub(super) fn revoke(state: &State, id: &str) -> Result<Draft, CallError> {
    let key: TokenKey = id.parse().map_err(|_| {
        if id.starts_with("cfj1.") {
            // What it says is not repeated: it is a secret.
            return invalid(
                "this is a token and not its id, which has 32 lower-case hex digits; `cfctl token list` \
                 shows it",
            );
        }
        // It may be a part of one.
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
    draft.remove(Key::Token(key), token.modified);
    Ok(draft)
}

/// The row of a token that can still be used.
pub(super) fn row((id, token): (&TokenKey, &Stored<record::Token>), now: u64) -> Option<TokenRow> {
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
    fn what_is_no_id_is_not_repeated() {
        let state = crate::audit::change::tests::state();
        for pasted in ["cfj1.c2VjcmV0", "c2VjcmV0LXBhcnQ"] {
            let error = revoke(&state, pasted).unwrap_err();
            assert!(!error.message.contains("c2VjcmV0"), "{error}");
            assert!(error.message.contains("32 lower-case hex digits"), "{error}");
        }
    }
}
