//! What one controller asks another, on demand: over the control port, with its own certificate.
//!
//! A connection is made with the first question and kept for the next ones; whether it may still be used is
//! looked at before each. A controller that says nothing for [`SILENCE`] does not answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cframe_pki::{
    identity::{Label, Role},
    tls,
    verifier::{PeerVerifier, Policy, Refusal},
};
use cframe_protocol::{
    session::{AdminConnection, CallFailure, Client, Replies},
    v1::{Call, CallError, ErrorCode, Reply},
};
use tokio::{task::JoinSet, time::timeout};

use crate::{model::State, presence, server::Context};

/// How long a controller may say nothing.
pub const SILENCE: Duration = Duration::from_millis(1_500);
/// How long an answer may take that keeps coming.
const WHOLE: Duration = Duration::from_secs(8);
/// Pieces of one answer at most: each is a frame, which takes up no more memory than
/// [`BUDGET`](cframe_protocol::frame::BUDGET) when it is read. Of thousands of edges there are hundreds.
const PIECES: usize = 2_048;
/// Calls that a controller has under way with another at once.
pub(crate) const STREAMS: u32 = 256;

/// The connections to other controllers.
#[derive(Debug, Default)]
pub struct Peers(Mutex<HashMap<Label, Arc<AdminConnection>>>);

/// Puts a question to each of the other controllers that run, at once. Answers in order of their names.
pub(crate) async fn ask_all(
    context: &Arc<Context>,
    call: &Call,
) -> Vec<(Label, Result<Vec<Reply>, CallFailure>)> {
    let mut asked = JoinSet::new();
    let names = presence::others(context);
    for name in names.iter().cloned() {
        let (context, call) = (Arc::clone(context), call.clone());
        asked.spawn(async move {
            let answer = ask(&context, &name, call).await;
            (name, answer)
        });
    }
    let mut answers = HashMap::new();
    while let Some(answer) = asked.join_next().await {
        answers.extend(answer.ok());
    }
    let fault = || Err(CallFailure::Protocol("a fault of the asking controller".to_owned()));
    names
        .into_iter()
        .map(|name| {
            let answer = answers.remove(&name).unwrap_or_else(fault);
            (name, answer)
        })
        .collect()
}

/// Puts a question to another controller and collects its answer.
async fn ask(context: &Context, name: &Label, call: Call) -> Result<Vec<Reply>, CallFailure> {
    let answer = ask_once(context, name, call.clone()).await;
    if !matches!(answer, Err(CallFailure::Lost(_))) {
        return answer;
    }
    // The connection was kept from before the other one was restarted. No question changes anything that
    // may not be changed twice.
    context.peers.forget(name);
    ask_once(context, name, call).await
}

async fn ask_once(context: &Context, name: &Label, call: Call) -> Result<Vec<Reply>, CallFailure> {
    let asked = call.name();
    let asking = async {
        let mut replies = open(context, name, call).await?;
        let mut answer: Vec<Reply> = Vec::new();
        let mut pieces = 0;
        while let Some(mut reply) = next(&mut replies).await? {
            pieces += 1;
            if pieces > PIECES {
                return Err(CallFailure::Protocol(format!(
                    "controller {name} has more than {PIECES} pieces of an answer to {asked}; look what runs there"
                )));
            }
            context.mesh.read(|state| keep_known(state, &mut reply));
            Reply::add_piece(&mut answer, reply);
        }
        Ok(answer)
    };
    let answer = timeout(WHOLE, asking).await.unwrap_or(Err(CallFailure::TimedOut(WHOLE)));
    if matches!(answer, Err(CallFailure::TimedOut(_) | CallFailure::Protocol(_))) {
        context.peers.forget(name);
    }
    answer
}

/// Leaves out what is about edges that there are none of: nobody asks for them, and a mesh has only so many.
fn keep_known(state: &State, reply: &mut Reply) {
    if let Reply::Sessions(rows) = reply {
        rows.retain(|row| {
            state.namespaces.get(&row.namespace).is_some_and(|of| of.edges.contains_key(&row.edge))
        });
    }
}

/// Begins a question; the answer is to be read with [`next`].
pub(crate) async fn open(
    context: &Context,
    name: &Label,
    call: Call,
) -> Result<Replies, CallFailure> {
    let opening = async {
        if let Some(kept) = context.peers.kept(context, name) {
            return kept.call(call, false).await;
        }
        connect(context, name).await?.call(call, false).await
    };
    let opened = timeout(SILENCE, opening).await;
    opened.unwrap_or_else(|_| {
        context.peers.forget(name);
        Err(CallFailure::TimedOut(SILENCE))
    })
}

/// The next piece of an answer.
pub(crate) async fn next(replies: &mut Replies) -> Result<Option<Reply>, CallFailure> {
    timeout(SILENCE, replies.next()).await.unwrap_or(Err(CallFailure::TimedOut(SILENCE)))
}

async fn connect(context: &Context, name: &Label) -> Result<Arc<AdminConnection>, CallFailure> {
    let registered = context.mesh.read(|state| {
        state.controllers.get(name).map(|controller| controller.record.addresses.clone())
    });
    let Some(addresses) = registered else {
        let message = format!("controller {name} is not one of this mesh any more");
        return Err(CallError::new(ErrorCode::NotFound, message).into());
    };
    // An address may lead to another controller by now.
    let meant = name.clone();
    let policy = Policy::Custom(Arc::new(move |id| match &id.role {
        Role::Controller { name } if *name == meant => Ok(()),
        Role::Edge { .. } | Role::Admin { .. } | Role::Controller { .. } => {
            Err(Refusal::WrongRole { role: id.role.kind() })
        }
    }));
    let verifier = PeerVerifier::new(context.mesh.trust().clone(), policy);
    let config = tls::control_client(&context.credentials, verifier);
    let client = Client::new(addresses, Arc::new(config));
    let connection = Arc::new(AdminConnection::connect(&client).await?);
    context.peers.lock().insert(name.clone(), Arc::clone(&connection));
    Ok(connection)
}

impl Peers {
    /// A connection that stands, to a controller that is still accepted.
    fn kept(&self, context: &Context, name: &Label) -> Option<Arc<AdminConnection>> {
        let mut kept = self.lock();
        let usable = kept.get(name).is_some_and(|connection| {
            let accepted = |peer: &_| context.mesh.trust().denial(peer).is_ok();
            connection.is_open() && connection.peer().as_ref().is_some_and(accepted)
        });
        if !usable {
            kept.remove(name);
        }
        kept.get(name).cloned()
    }

    fn forget(&self, name: &Label) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Label, Arc<AdminConnection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use cframe_protocol::v1::SessionRow;

    use super::*;

    #[test]
    fn edges_that_there_are_none_of_are_left_out_of_an_answer() {
        let row = |namespace: &str, edge: &str| SessionRow {
            namespace: namespace.parse().unwrap(),
            edge: edge.parse().unwrap(),
            online: true,
            since: 1,
            software: String::new(),
            address: "192.0.2.1:1".parse().unwrap(),
            applied: None,
            links: Vec::new(),
        };
        let rows = vec![row("prod", "hk"), row("prod", "xx"), row("test", "hk")];
        let mut reply = Reply::Sessions(rows);
        keep_known(&crate::audit::change::tests::state(), &mut reply);
        assert_eq!(reply, Reply::Sessions(vec![row("prod", "hk")]));
    }
}
