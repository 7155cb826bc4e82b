//! Questions to other controllers, over their control ports and with this controller's certificate.
//!
//! A connection is opened for the first question and reused for later ones.

use std::{collections::HashMap, sync::Arc, time::Duration};

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

use crate::{
    context::Context,
    model::State,
    sessions::all::{AllSessions, SessionFilter},
};

/// A controller that sends nothing for this long does not answer.
pub const IDLE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// For a whole answer.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Pieces of one answer. Each is a frame, which takes at most [`BUDGET`](cframe_protocol::frame::BUDGET) of memory.
/// The sessions of thousands of edges are hundreds of pieces.
const MAX_PIECES: usize = 2_048;
/// Calls that one controller may have under way with another.
pub(crate) const MAX_STREAMS: u32 = 256;

/// The other controllers that run, as the store has it.
pub(crate) fn others(context: &Context) -> Vec<Label> {
    let own = context.name();
    let running = |state: &State| -> Vec<Label> {
        state.running_controllers().filter(|name| **name != own).cloned().collect()
    };
    context.replica.read(running)
}

/// The sessions of all controllers.
pub(crate) async fn all_sessions<'a>(
    context: &'a Arc<Context>,
    filter: SessionFilter<'_>,
) -> AllSessions<'a> {
    let started = |state: &State| {
        state.running_controllers().map(|name| state.alive[name].record.started).max()
    };
    let since = context.replica.read(started).unwrap_or(0).max(context.started_at);
    let mut sessions = AllSessions::new(&context.replica.sessions, since);
    for (name, answer) in ask_all(context, &filter.call()).await {
        match answer {
            Ok(replies) => replies.into_iter().for_each(|reply| sessions.add(reply)),
            Err(failure) => {
                tracing::warn!(controller = %name, error = %failure, "no answer");
                sessions.add_unanswered(name, failure.to_string());
            }
        }
    }
    sessions
}

/// Asks all other running controllers at the same time. The answers are sorted by name.
pub(crate) async fn ask_all(
    context: &Arc<Context>,
    call: &Call,
) -> Vec<(Label, Result<Vec<Reply>, CallFailure>)> {
    let mut asking = JoinSet::new();
    let names = others(context);
    for name in names.iter().cloned() {
        let (context, call) = (Arc::clone(context), call.clone());
        asking.spawn(async move {
            let answer = ask(&context, &name, call).await;
            (name, answer)
        });
    }
    let mut answers = HashMap::new();
    while let Some(answer) = asking.join_next().await {
        answers.extend(answer.ok());
    }
    let panicked = || Err(CallFailure::Protocol("a bug of the asking controller".to_owned()));
    names
        .into_iter()
        .map(|name| {
            let answer = answers.remove(&name).unwrap_or_else(panicked);
            (name, answer)
        })
        .collect()
}

/// Asks another controller and collects its answer.
async fn ask(context: &Context, name: &Label, call: Call) -> Result<Vec<Reply>, CallFailure> {
    let answer = ask_once(context, name, call.clone()).await;
    if !matches!(answer, Err(CallFailure::Lost(_))) {
        return answer;
    }
    // The other controller was restarted since the connection was opened. Every call between controllers can be
    // repeated.
    context.peers.remove(name);
    ask_once(context, name, call).await
}

async fn ask_once(context: &Context, name: &Label, call: Call) -> Result<Vec<Reply>, CallFailure> {
    let call_name = call.name();
    // The other controller answers only after the edge in question has, or has not.
    let idle_timeout = if matches!(call, Call::Claim { .. }) { TIMEOUT } else { IDLE_TIMEOUT };
    let asking = async {
        let mut replies = open(context, name, call).await?;
        let mut answer: Vec<Reply> = Vec::new();
        let mut pieces = 0;
        while let Some(mut reply) = next_within(&mut replies, idle_timeout).await? {
            pieces += 1;
            if pieces > MAX_PIECES {
                return Err(CallFailure::Protocol(format!(
                    "controller {name} sends more than {MAX_PIECES} pieces of an answer to {call_name}; check what \
                     runs there"
                )));
            }
            context.replica.read(|state| drop_unknown_edges(state, &mut reply));
            Reply::add_piece(&mut answer, reply);
        }
        Ok(answer)
    };
    let answer = timeout(TIMEOUT, asking).await.unwrap_or(Err(CallFailure::TimedOut(TIMEOUT)));
    if matches!(answer, Err(CallFailure::TimedOut(_) | CallFailure::Protocol(_))) {
        context.peers.remove(name);
    }
    answer
}

/// Limits the memory that an answer takes: the mesh has only so many edges.
fn drop_unknown_edges(state: &State, reply: &mut Reply) {
    if let Reply::Sessions(rows) = reply {
        rows.retain(|row| {
            let namespace = state.namespaces.get(&row.namespace);
            namespace.is_some_and(|namespace| namespace.edges.contains_key(&row.edge))
        });
    }
}

/// Sends a call; read the answer with [`next`].
pub(crate) async fn open(
    context: &Context,
    name: &Label,
    call: Call,
) -> Result<Replies, CallFailure> {
    let opening = async {
        if let Some(connection) = context.peers.usable(name, context.replica.trust()) {
            return connection.call(call, false).await;
        }
        connect(context, name).await?.call(call, false).await
    };
    let opened = timeout(IDLE_TIMEOUT, opening).await;
    opened.unwrap_or_else(|_| {
        context.peers.remove(name);
        Err(CallFailure::TimedOut(IDLE_TIMEOUT))
    })
}

/// The next piece of an answer.
pub(crate) async fn next(replies: &mut Replies) -> Result<Option<Reply>, CallFailure> {
    next_within(replies, IDLE_TIMEOUT).await
}

async fn next_within(replies: &mut Replies, limit: Duration) -> Result<Option<Reply>, CallFailure> {
    let next = timeout(limit, replies.next()).await;
    next.unwrap_or(Err(CallFailure::TimedOut(limit)))
}

async fn connect(context: &Context, name: &Label) -> Result<Arc<AdminConnection>, CallFailure> {
    let registered = context.replica.read(|state| {
        state.controllers.get(name).map(|controller| controller.record.addresses.clone())
    });
    let Some(addresses) = registered else {
        let message = format!("controller {name} is not registered any more");
        return Err(CallError::new(ErrorCode::NotFound, message).into());
    };
    // Another controller may have this address by now.
    let expected = name.clone();
    let policy = Policy::Custom(Arc::new(move |id| match &id.role {
        Role::Controller { name } if *name == expected => Ok(()),
        Role::Edge { .. } | Role::Admin { .. } | Role::Controller { .. } => {
            Err(Refusal::WrongRole { role: id.role.kind() })
        }
    }));
    let verifier = PeerVerifier::new(context.replica.trust().clone(), policy);
    let config = tls::control_client(&context.credentials, verifier);
    let client = Client::new(addresses, Arc::new(config));
    let connection = Arc::new(AdminConnection::connect(&client).await?);
    context.peers.insert(name.clone(), Arc::clone(&connection));
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use cframe_protocol::v1::{Problems, SessionDetail, SessionRow};

    use super::*;

    #[test]
    fn unknown_edges_are_dropped_from_an_answer() {
        let row = |namespace: &str, edge: &str| SessionRow {
            namespace: namespace.parse().unwrap(),
            edge: edge.parse().unwrap(),
            online: true,
            since: 1,
            software: String::new(),
            address: "192.0.2.1:1".parse().unwrap(),
            applied: None,
            links: Vec::new(),
            problems: Problems::default(),
            detail: SessionDetail::default(),
        };
        let rows = vec![row("prod", "hk"), row("prod", "xx"), row("test", "hk")];
        let mut reply = Reply::Sessions(rows);
        drop_unknown_edges(&crate::model::sample::state(), &mut reply);
        assert_eq!(reply, Reply::Sessions(vec![row("prod", "hk")]));
    }
}
