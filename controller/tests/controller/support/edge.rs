//! Edges without a data plane: they join and have a session.

use std::sync::Arc;

use cframe_pki::{key::PrivateKey, token::JoinToken};
use cframe_protocol::{
    session::{Client, Command, EdgeSession, EnrollFailure, Event, enroll},
    v1::{CallError, Desired, Enrolled, GoodbyeReason},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    credentials::EdgeIdentity,
    wait::{TIMEOUT, in_time},
};

pub(crate) async fn join(token: &JoinToken) -> Result<EdgeIdentity, EnrollFailure> {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr().unwrap().to_vec();
    let enrolled = enroll(token, csr, None, TIMEOUT).await?;
    Ok(EdgeIdentity { enrolled, key })
}

/// Tries to join with a token that must not be accepted.
pub(crate) async fn refused_join(token: &JoinToken) -> CallError {
    match join(token).await {
        Err(EnrollFailure::Refused(error)) => error,
        other => panic!("{:?}", other.map(|identity| identity.serial())),
    }
}

/// An edge with a session, until it is dropped.
pub(crate) struct TestEdge {
    /// The newest state that it received.
    pub(crate) desired: watch::Receiver<Option<Arc<Desired>>>,
    pub(crate) events: mpsc::UnboundedReceiver<SessionEvent>,
    pub(crate) commands: mpsc::Sender<Command>,
    stop: CancellationToken,
}

/// What happened to an edge's session.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    Connected,
    Goodbye(GoodbyeReason),
    Ended(String),
    Renewed(Result<Enrolled, CallError>),
    RenewNow,
}

const BOOT: [u8; 16] = [7; 16];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Acks {
    Automatic,
    Manual,
}

impl TestEdge {
    /// An edge that acknowledges every state. `have` is the state that it had before.
    pub(crate) fn connect(client: Client, have: Option<Arc<Desired>>) -> Self {
        Self::spawn(client, have, Acks::Automatic, BOOT)
    }

    /// Another process with the same identity.
    pub(crate) fn connect_as_other_process(client: Client) -> Self {
        Self::spawn(client, None, Acks::Automatic, [8; 16])
    }

    /// An edge that acknowledges a state only when a test calls [`Self::acknowledge`].
    pub(crate) fn connect_without_acks(client: Client) -> Self {
        Self::spawn(client, None, Acks::Manual, BOOT)
    }

    /// An edge that has received its first state.
    pub(crate) async fn online(client: Client) -> Self {
        let mut edge = Self::connect(client, None);
        edge.any_state().await;
        edge
    }

    fn spawn(client: Client, have: Option<Arc<Desired>>, acks: Acks, boot: [u8; 16]) -> Self {
        let (event_in, mut event_out) = mpsc::channel(1);
        let (commands, command_out) = mpsc::channel(16);
        let (event_log, events) = mpsc::unbounded_channel();
        let (newest, desired) = watch::channel(None);
        let stop = CancellationToken::new();
        let session = EdgeSession::new(client, have, "test", boot);
        tokio::spawn(session.run(event_in, command_out, stop.clone()));
        let ack_sender = commands.clone();
        tokio::spawn(async move {
            while let Some(event) = event_out.recv().await {
                let event = match event {
                    Event::Desired { state, .. } => {
                        let version = state.version;
                        newest.send_replace(Some(state));
                        if acks == Acks::Automatic {
                            let _ = ack_sender.send(Command::Ack(version)).await;
                        }
                        continue;
                    }
                    Event::Connected { .. } => SessionEvent::Connected,
                    Event::Goodbye(reason) => SessionEvent::Goodbye(reason),
                    Event::Disconnected(reason) => SessionEvent::Ended(reason.to_string()),
                    Event::RenewReply(result) => SessionEvent::Renewed(result),
                    Event::RenewNow => SessionEvent::RenewNow,
                };
                let _ = event_log.send(event);
            }
        });
        Self { desired, events, commands, stop }
    }

    pub(crate) async fn acknowledge(&self) {
        let newest = self.desired.borrow().as_ref().map(|state| state.version);
        self.commands.send(Command::Ack(newest.unwrap())).await.unwrap();
    }

    /// Waits until the newest state is as wanted.
    pub(crate) async fn state(&mut self, wanted: impl Fn(&Desired) -> bool) -> Arc<Desired> {
        let found =
            self.desired.wait_for(|state| state.as_ref().is_some_and(|state| wanted(state)));
        in_time(found).await.unwrap().clone().unwrap()
    }

    pub(crate) async fn any_state(&mut self) -> Arc<Desired> {
        self.state(|_| true).await
    }

    /// Waits for an event that is as wanted, and skips the others.
    pub(crate) async fn event(&mut self, wanted: impl Fn(&SessionEvent) -> bool) -> SessionEvent {
        in_time(async {
            loop {
                let event = self.events.recv().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        })
        .await
    }

    pub(crate) async fn connected(&mut self) {
        self.event(|event| matches!(event, SessionEvent::Connected)).await;
    }

    pub(crate) async fn goodbye(&mut self, wanted: GoodbyeReason) {
        self.event(|event| matches!(event, SessionEvent::Goodbye(reason) if *reason == wanted))
            .await;
    }

    /// Waits until a controller refuses this edge in the handshake.
    pub(crate) async fn refused(&mut self) {
        self.event(|event| matches!(event, SessionEvent::Ended(why) if why.contains("refuses")))
            .await;
    }

    /// Renews the certificate, for a new key. The session goes on with the old one.
    pub(crate) async fn renew(&mut self) -> EdgeIdentity {
        let key = PrivateKey::generate().unwrap();
        let csr = key.csr().unwrap().to_vec();
        self.commands.send(Command::Renew { csr }).await.unwrap();
        match self.event(|event| matches!(event, SessionEvent::Renewed(_))).await {
            SessionEvent::Renewed(Ok(enrolled)) => EdgeIdentity { enrolled, key },
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for TestEdge {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
