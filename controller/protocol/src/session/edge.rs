//! An edge's session: connects, keeps the desired state, and comes back when it is lost, to another controller
//! if there is one.

mod live;
mod outbox;

use std::{sync::Arc, time::Duration};

use cframe_pki::verifier::{Refusal, Trust};
use tokio::{
    pin, select,
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Client, CloseCode, Connected, ReadError, Unreachable, backoff::Backoff, certificate_refused,
};
use crate::{
    desired::{Assembler, Refused},
    v1::{CallError, Desired, EdgeHello, Endpoint, ErrorCode, Report, Version},
};

pub use outbox::Event;
use outbox::Outbox;

/// How long an edge stays with one of several controllers, more or less: so that one that comes back gets its
/// share again, and one that is in wrong hands cannot keep an edge from what the others know.
const STAY: Duration = Duration::from_secs(3_600);

/// An edge's session with whichever controller answers.
#[derive(Debug)]
pub struct EdgeSession {
    client: Client,
    software: String,
    boot: [u8; 16],
    assembler: Assembler,
    acked: Option<Version>,
    report: Option<Report>,
    renewing: bool,
    outbox: Outbox,
    stay: Duration,
    /// The controller that was just lost.
    lost: Option<Endpoint>,
}

/// How a session ended.
enum End {
    /// With everything else.
    Over,
    /// The edge has another connection now.
    Moved(Box<Connected>),
    /// It is lost.
    Lost(SessionError),
}

/// What an edge wants of its session.
#[derive(Clone, Debug)]
pub enum Command {
    /// The state of this version is applied.
    Ack(Version),
    /// How the edge is. While there is no session the latest is kept. Links beyond
    /// [`Report::MAX_LINKS`] are left out.
    Report(Report),
    /// A certificate for a new key. Answered by [`Event::RenewReply`], without a session at once.
    Renew {
        /// PKCS #10 request in DER.
        csr: Vec<u8>,
    },
    /// From the next attempt on, whom to dial.
    Client(Client),
    /// The trust is another: a session with a controller that it no longer accepts ends, and is begun
    /// anew. It must be the trust that the client's verifier judges by.
    Recheck(Trust),
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No controller answers.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The controller has closed, and says why.
    #[error("the controller has closed the session: {0}")]
    Closed(CloseCode),
    /// The controller doesn't take the edge's certificate.
    #[error("the controller refuses the certificate: {0}")]
    CertificateRefused(String),
    /// The edge doesn't take the controller's certificate any more.
    #[error("the controller is not trusted any more: {0}")]
    Untrusted(Refusal),
    /// The connection is lost.
    #[error("the connection to the controller is lost: {0}")]
    Lost(#[from] quinn::ConnectionError),
    /// The controller says nothing, or takes nothing.
    #[error("the controller has been silent for too long")]
    Silent,
    /// The controller breaks the protocol.
    #[error("the controller breaks the protocol: {0}")]
    Protocol(String),
    /// The controller sends a state that must not be followed.
    #[error("the controller breaks the protocol: {0}")]
    Refused(#[from] Refused),
}

impl SessionError {
    /// Whether a session was lost without anybody's wanting it to stay away.
    fn is_loss(&self) -> bool {
        match self {
            Self::Lost(_)
            | Self::Silent
            | Self::Untrusted(_)
            | Self::Closed(CloseCode::Shutdown) => true,
            Self::Closed(_)
            | Self::Unreachable(_)
            | Self::CertificateRefused(_)
            | Self::Protocol(_)
            | Self::Refused(_) => false,
        }
    }
}

impl EdgeSession {
    /// Begins with the state that the edge has, if any, such as the last one kept on disk.
    /// `software` is the edge's version; `boot` is random and new at every start.
    pub fn new(
        client: Client,
        have: Option<Arc<Desired>>,
        software: impl Into<String>,
        boot: [u8; 16],
    ) -> Self {
        Self {
            client,
            software: software.into(),
            boot,
            acked: have.as_ref().map(|state| state.version),
            assembler: Assembler::new(have),
            report: None,
            renewing: false,
            outbox: Outbox::default(),
            stay: STAY,
            lost: None,
        }
    }

    /// With another time between moves from one of several controllers to another; an hour by default.
    #[must_use]
    pub fn staying(self, stay: Duration) -> Self {
        Self { stay, ..self }
    }

    /// Runs until `shutdown`, or until nobody holds the other ends of the channels. Then it says
    /// goodbye, which takes a tenth of a second at most.
    ///
    /// A reader of `events` that is slow misses nothing but what a later event replaces.
    pub async fn run(
        mut self,
        events: mpsc::Sender<Event>,
        mut commands: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) {
        let mut backoff = Backoff::new();
        let mut outside = Outside { events, commands: &mut commands, shutdown };
        let mut moved: Option<Box<Connected>> = None;
        loop {
            let attempt = match moved.take() {
                Some(connected) => Ok(*connected),
                None => {
                    let (client, lost) = (self.client.clone(), self.lost.clone());
                    let connecting = client.connect_elsewhere(lost.as_ref());
                    let Some(attempt) = self.away(&mut outside, connecting).await else {
                        return;
                    };
                    attempt
                }
            };
            let started = Instant::now();
            let error = match attempt {
                Ok(connected) => {
                    self.lost = Some(connected.address.clone());
                    match self.session(connected, &mut outside).await {
                        End::Over => return,
                        End::Moved(connected) => {
                            self.leave();
                            moved = Some(connected);
                            continue;
                        }
                        End::Lost(error) => error,
                    }
                }
                Err(unreachable) => unreachable.into(),
            };
            backoff.record_session(started.elapsed(), error.is_loss());
            self.lost(error);
            let delay = backoff.delay(rand::random());
            if self.away(&mut outside, sleep(delay)).await.is_none() {
                return;
            }
        }
    }

    /// Waits for something without a session, and serves the outside meanwhile. `None` ends it all.
    async fn away<F: Future>(&mut self, outside: &mut Outside<'_>, until: F) -> Option<F::Output> {
        pin!(until);
        loop {
            select! {
                output = &mut until => return Some(output),
                heard = outside.next(&mut self.outbox) => {
                    if let Some(command) = heard? {
                        self.command_away(command);
                    }
                }
            }
        }
    }

    fn command_away(&mut self, command: Command) {
        match command {
            Command::Ack(version) => self.acked = Some(version),
            Command::Report(report) => self.report = Some(within_limit(report)),
            Command::Client(client) => self.client = client,
            Command::Renew { .. } => self.cannot_renew(),
            // The next handshake goes by it anyhow.
            Command::Recheck(_) => {}
        }
    }

    fn lost(&mut self, error: SessionError) {
        tracing::debug!(%error, "no session with a controller");
        self.leave();
        self.outbox.push(Event::Disconnected(error));
    }

    /// What was under way in a session that has ended is over.
    fn leave(&mut self) {
        self.assembler.reset();
        if std::mem::take(&mut self.renewing) {
            self.cannot_renew();
        }
    }

    fn cannot_renew(&mut self) {
        let message = "there is no session with a controller; try again later";
        let error = CallError::new(ErrorCode::Unavailable, message);
        self.outbox.push(Event::RenewReply(Err(error)));
    }

    fn hello(&self) -> EdgeHello {
        EdgeHello {
            have: self.assembler.version(),
            software: self.software.clone(),
            boot: self.boot,
        }
    }
}

/// Its first links, if it has more than a report may.
fn within_limit(mut report: Report) -> Report {
    report.links.truncate(Report::MAX_LINKS);
    report
}

/// The rest of the edge.
struct Outside<'a> {
    events: mpsc::Sender<Event>,
    commands: &'a mut mpsc::Receiver<Command>,
    shutdown: CancellationToken,
}

impl Outside<'_> {
    /// Hands out an event or takes a command, whichever goes first; `Some(None)` after an event.
    /// `None` when it is over. Cancel-safe.
    async fn next(&mut self, outbox: &mut Outbox) -> Option<Option<Command>> {
        select! {
            biased;
            () = self.shutdown.cancelled() => None,
            permit = self.events.reserve(), if !outbox.is_empty() => {
                let permit = permit.ok()?;
                if let Some(event) = outbox.pop() {
                    permit.send(event);
                }
                Some(None)
            }
            command = self.commands.recv() => command.map(Some),
        }
    }
}

impl From<ReadError> for SessionError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stream(quinn::ReadError::ConnectionLost(lost)) => lost_connection(lost),
            ReadError::Stream(_)
            | ReadError::CutOff
            | ReadError::Length(_)
            | ReadError::Malformed(_) => Self::Protocol(error.to_string()),
        }
    }
}

impl From<quinn::WriteError> for SessionError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::ConnectionLost(lost) => lost_connection(lost),
            quinn::WriteError::Stopped(_)
            | quinn::WriteError::ClosedStream
            | quinn::WriteError::ZeroRttRejected => Self::Protocol(error.to_string()),
        }
    }
}

fn lost_connection(error: quinn::ConnectionError) -> SessionError {
    if let Some(code) = CloseCode::of(&error) {
        return SessionError::Closed(code);
    }
    match certificate_refused(&error) {
        Some(reason) => SessionError::CertificateRefused(reason),
        None => SessionError::Lost(error),
    }
}
