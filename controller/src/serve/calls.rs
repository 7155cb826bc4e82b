//! Answers admin calls: who may make a call, its dispatch, its record, and its answer. What a call changes is decided in
//! [`crate::decide`].

use std::{net::SocketAddr, sync::Arc};

use cframe_pki::{
    identity::{Label, Role},
    verifier::{PeerIdentity, Refusal},
};
use cframe_protocol::v1::{AdminRequest, CallError, ErrorCode, Reply};
use tokio::sync::mpsc;

use crate::{
    audit::Act,
    context::Context,
    decide::{
        access::{Holder, permit},
        call::{Descriptor, describe},
    },
    keys::issuer::leaf_serial,
};

mod audit;
mod dispatch;
mod renew_order;
mod request;
mod status;
mod wait;

use request::Request;

/// An admin, or another controller.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) name: Label,
    pub(super) peer: PeerIdentity,
    pub(super) address: SocketAddr,
}

type Replies = mpsc::Sender<Result<Reply, CallError>>;

/// Answers one call in pieces. An error is the last one. The reader may be slow or gone.
pub(super) async fn answer(
    context: &Arc<Context>,
    caller: &Caller,
    AdminRequest { call, dry_run }: AdminRequest,
    replies: Replies,
) {
    let described = describe(&call);
    let act = Act::call(&caller.peer, caller.address, &described, dry_run);
    let now = context.replica.now();
    let request =
        Request { context, caller, act: &act, call: &described, dry_run, now, replies: &replies };
    let result = match request.authorise() {
        Ok(()) => dispatch::dispatch(&request, call).await,
        Err(error) => Err(error),
    };
    let error = result.as_ref().err();
    context.replica.record_outcome(&act, error);
    context.replica.metrics.call(described.name, error.map(|error| error.code));
    let (call, admin) = (described.name, &caller.name);
    match &result {
        Ok(reply) if !dry_run && !act.reads_only() => {
            let (subject, created) = (&act.subject, created(reply.as_ref()));
            tracing::info!(call, %admin, %subject, %created, "changed");
        }
        Ok(_) => tracing::debug!(call, %admin, dry_run, "answered"),
        Err(error) => tracing::info!(call, %admin, dry_run, %error, "refused"),
    }
    let pieces = match result {
        Ok(reply) => reply.into_iter().flat_map(Reply::split).map(Ok).collect(),
        Err(error) => vec![Err(error)],
    };
    for piece in pieces {
        if replies.send(piece).await.is_err() {
            return;
        }
    }
}

/// The serial of the certificate, or the id of the token, that the call created.
fn created(reply: Option<&Reply>) -> String {
    match reply {
        Some(Reply::Enrolled(enrolled)) => leaf_serial(&enrolled.chain),
        Some(Reply::AdminEnrolled(enrolled)) => leaf_serial(&enrolled.chain),
        Some(Reply::TokenMade(token)) => token.id.clone(),
        _ => String::new(),
    }
}

/// Admins and controllers must also be in the store: their certificates are valid longer.
fn authorise(context: &Context, caller: &Caller, call: &Descriptor) -> Result<(), CallError> {
    let name = &caller.name;
    let kind = caller.peer.id.role.kind();
    match context.replica.trust().denial(&caller.peer) {
        Ok(()) => {}
        Err(Refusal::RootRemoved) => {
            return Err(not_allowed(format!(
                "the root above this certificate of {kind} {name} was removed; connect again with a newer one"
            )));
        }
        Err(_) => return Err(not_allowed(format!("the certificate of {kind} {name} was revoked"))),
    }
    let holder = context.replica.read(|state| match &caller.peer.id.role {
        Role::Edge { .. } => Some(Holder::Edge),
        Role::Admin { .. } => state
            .admins
            .get(name)
            .map(|admin| Holder::Admin { name: name.clone(), read_only: admin.record.read_only }),
        Role::Controller { .. } => {
            let known = state.controllers.contains_key(name);
            known.then(|| Holder::Controller { name: name.clone() })
        }
    });
    match holder {
        Some(holder) => permit(&holder, call),
        None => Err(not_allowed(format!("{name} is not a {kind} of this mesh any more"))),
    }
}

fn not_allowed(message: String) -> CallError {
    CallError::new(ErrorCode::NotAllowed, message)
}
