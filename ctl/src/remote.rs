//! Calls to controllers over QUIC.

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use cframe_console::exit::Exit;
use cframe_pki::{
    tls::{self, LiveCredentials},
    verifier::{PeerVerifier, Policy},
};
use cframe_protocol::{
    session::{AdminConnection, CallFailure, Client, CloseCode, Replies, Unreachable},
    v1::{Call, Endpoint, ErrorCode, Reply},
};
use tokio::time::timeout;
use tracing::debug;

use crate::{context::Context, controller::Controller, failure::Failure, timestamp::short};

/// The controllers of a context. The first call connects to one of them, and later calls use the same
/// connection.
pub struct Remote {
    /// The context's name.
    name: String,
    client: Client,
    timeout: Duration,
    connection: Option<AdminConnection>,
    /// The last refusal by controllers that were too busy.
    busy: Option<Unreachable>,
}

impl Remote {
    /// Uses the certificate of a context. `timeout` is for each call.
    pub fn new(name: &str, context: &Context, timeout: Duration) -> Result<Self, Failure> {
        let named = || format!("context {name}");
        let credentials = context.credentials().with_context(named)?;
        let credentials =
            LiveCredentials::new(credentials).map_err(anyhow::Error::from).with_context(named)?;
        let verifier = PeerVerifier::new(context.trust().with_context(named)?, Policy::Controller);
        let config = tls::control_client(&credentials, verifier);
        Ok(Self {
            name: name.to_owned(),
            client: Client::new(context.controllers.clone(), Arc::new(config)),
            timeout,
            connection: None,
            busy: None,
        })
    }

    pub async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }

    async fn open(&mut self, call: Call, dry_run: bool) -> Result<Replies, CallFailure> {
        let started = Instant::now();
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = self.connect().await?;
                debug!(context = self.name, elapsed = ?started.elapsed(), "connected");
                connection
            }
        };
        debug!(call = call.name(), dry_run, "calling");
        self.connection.insert(connection).call(call, dry_run).await
    }

    /// Tries again as long as a controller refuses because it is busy. The caller sets the timeout.
    async fn connect(&mut self) -> Result<AdminConnection, Unreachable> {
        let connecting = self.client.connect_when_free(|unreachable| {
            debug!(context = self.name, %unreachable, "busy");
            self.busy = Some(unreachable);
        });
        let connected = connecting.await;
        self.busy = None;
        connected.map(AdminConnection::over)
    }

    fn failure(&self, failure: CallFailure) -> Failure {
        describe(&self.name, failure)
    }

    fn timed_out(&self, timeout: Duration) -> Failure {
        let timeout = short(timeout);
        if self.connection.is_some() {
            let message = format!("the controller did not answer within {timeout}");
            return Failure::new(Exit::Unreachable, message).hint(CHECK_FIRST);
        }
        if let Some(unreachable) = &self.busy {
            let message = format!("context {}: after {timeout} {unreachable}", self.name);
            return Failure::new(Exit::Unreachable, message).hint(
                "many edges reconnect at once, or somebody floods it; try again, or longer with --timeout",
            );
        }
        let addresses: Vec<&str> = self.client.addresses.iter().map(Endpoint::as_str).collect();
        let message = format!(
            "no controller of context {} answered within {timeout}: tried {}",
            self.name,
            addresses.join(", ")
        );
        Failure::new(Exit::Unreachable, message).hint(UNREACHABLE)
    }
}

/// A controller sends something to a follower every five seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

const UNREACHABLE: &str =
    "is the controller running, and does a firewall let its UDP port through?";
const CHECK_FIRST: &str = "a change may have been made; check before you repeat it";

impl Controller for Remote {
    async fn call(&mut self, call: Call, dry_run: bool) -> Result<Vec<Reply>, Failure> {
        let limit = self.timeout;
        let answer =
            timeout(limit, async { self.open(call, dry_run).await?.collect().await }).await;
        match answer {
            Ok(answer) => answer.map_err(|failure| self.failure(failure)),
            Err(_) => Err(self.timed_out(limit)),
        }
    }

    async fn watch(&mut self, call: Call, each: &mut dyn FnMut(Reply)) -> Result<(), Failure> {
        // The controller ends the answer in time, unless it is gone.
        let limit = self.timeout + Duration::from_secs(5);
        let watched = timeout(limit, async {
            let mut replies = self.open(call, false).await?;
            while let Some(reply) = replies.next().await? {
                each(reply);
            }
            Ok(())
        })
        .await;
        match watched {
            // The controller's time is over. The last progress shows what is missing.
            Ok(Err(CallFailure::Refused(error))) if error.code == ErrorCode::Unavailable => Ok(()),
            Ok(answer) => answer.map_err(|failure| self.failure(failure)),
            Err(_) => Err(self.timed_out(limit)),
        }
    }

    async fn follow(
        &mut self,
        call: Call,
        each: &mut dyn FnMut(Reply) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Failure> {
        let idle = self.timeout.max(IDLE_TIMEOUT);
        let followed = async {
            let mut replies = match timeout(self.timeout, self.open(call, false)).await {
                Ok(opened) => opened.map_err(|failure| describe(&self.name, failure))?,
                Err(_) => return Err(self.timed_out(self.timeout)),
            };
            loop {
                match timeout(idle, replies.next()).await {
                    Ok(Ok(Some(reply))) => {
                        if each(reply).is_break() {
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                    Ok(Ok(None)) => return Ok(ControlFlow::Continue(())),
                    Ok(Err(failure)) => return Err(describe(&self.name, failure)),
                    Err(_) => return Err(self.timed_out(idle)),
                }
            }
        };
        let end = followed.await;
        self.close().await;
        end
    }

    async fn disconnect(&mut self) {
        self.close().await;
    }
}

fn describe(context: &str, failure: CallFailure) -> Failure {
    match failure {
        CallFailure::Refused(error) => error.into(),
        CallFailure::Unreachable(unreachable) => {
            let message = format!("context {context}: {unreachable}");
            Failure::new(Exit::Unreachable, message).hint(UNREACHABLE)
        }
        CallFailure::Lost(error) => match CloseCode::of(&error) {
            Some(CloseCode::Revoked | CloseCode::Removed) => {
                let message = format!("the certificate of context {context} is revoked");
                Failure::new(Exit::NotAllowed, message)
                    .hint("if that was a mistake, have another admin run `cfctl admin add NAME --out FILE`, or run `cframe-controller admin` on the controller's host")
            }
            Some(CloseCode::Busy | CloseCode::Shutdown) => {
                let message = format!("the controller closed the connection: {error}");
                Failure::new(Exit::Unreachable, message).hint("try again")
            }
            Some(CloseCode::Done | CloseCode::Protocol | CloseCode::InUse) | None => {
                Failure::new(Exit::Unreachable, CallFailure::Lost(error).to_string())
                    .hint(CHECK_FIRST)
            }
        },
        timeout @ CallFailure::TimedOut(_) => {
            Failure::new(Exit::Unreachable, timeout.to_string()).hint(CHECK_FIRST)
        }
        CallFailure::Protocol(reason) => {
            let message = format!("the controller's answer cannot be read: {reason}");
            Failure::new(Exit::Error, message).hint("compare their versions: cfctl version")
        }
    }
}

#[cfg(test)]
mod tests {
    use cframe_protocol::v1::CallError;

    use super::*;

    fn lost(code: CloseCode) -> CallFailure {
        let close = quinn::ApplicationClose { error_code: code.into(), reason: Vec::new().into() };
        CallFailure::Lost(quinn::ConnectionError::ApplicationClosed(close))
    }

    #[test]
    fn every_way_to_fail_has_its_exit_code() {
        let refused = CallError::new(ErrorCode::Conflict, "clash");
        for (failure, exit) in [
            (CallFailure::Refused(refused), Exit::Conflict),
            (CallFailure::Unreachable(Unreachable { attempts: Vec::new() }), Exit::Unreachable),
            (lost(CloseCode::Revoked), Exit::NotAllowed),
            (lost(CloseCode::Removed), Exit::NotAllowed),
            (lost(CloseCode::Busy), Exit::Unreachable),
            (lost(CloseCode::Shutdown), Exit::Unreachable),
            (lost(CloseCode::Protocol), Exit::Unreachable),
            (CallFailure::Lost(quinn::ConnectionError::TimedOut), Exit::Unreachable),
            (CallFailure::TimedOut(Duration::from_secs(1)), Exit::Unreachable),
            (CallFailure::Protocol("x".into()), Exit::Error),
        ] {
            let text = format!("{failure:?}");
            assert_eq!(describe("corp", failure).exit, exit, "{text}");
        }
    }
}
