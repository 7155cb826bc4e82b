//! An edge's session: connects, assembles desired state, and reconnects after a loss, to another
//! controller if there is one.

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
    CertificateAlert, Client, CloseCode, Connected, ReadError, Unreachable,
    backoff::{self, Backoff},
};
use crate::{
    desired::{Assembler, Refused},
    v1::{CallError, Desired, EdgeHello, Endpoint, ErrorCode, Problems, Report, Version},
};

pub use outbox::Event;
use outbox::Outbox;

/// Average time that an edge stays with one of several controllers. A controller that was restarted gets
/// edges again, and a stolen one cannot withhold from an edge what the others know.
const STAY: Duration = Duration::from_secs(3_600);

/// An edge's session with any controller that answers.
#[derive(Debug)]
pub struct EdgeSession {
    client: Client,
    software: String,
    boot: [u8; 16],
    assembler: Assembler,
    acked: Option<Version>,
    /// The latest report and problems, which every new session starts with.
    report: Option<Report>,
    problems: Problems,
    renewing: bool,
    outbox: Outbox,
    stay: Duration,
    /// The last controller, which is tried last.
    lost: Option<Endpoint>,
}

/// How a session ended.
enum End {
    Shutdown,
    /// The edge has a connection to another controller.
    Moved(Box<Connected>),
    Lost(SessionError),
}

/// Commands of the edge to its session.
#[derive(Clone, Debug)]
pub enum Command {
    /// The edge has applied this version.
    Ack(Version),
    /// Sends a report. It is sent again at the start of every session. Links beyond [`Report::MAX_LINKS`] are left out,
    /// those that are down last.
    Report(Report),
    /// Sends the edge's problems. They are sent again at the start of every session. Problems beyond
    /// [`Problems::MAX`] are counted only.
    Problems(Problems),
    /// Requests a certificate for a new key. [`Event::RenewReply`] is the answer; without a session it
    /// follows at once.
    Renew {
        /// PKCS#10 in DER.
        csr: Vec<u8>,
    },
    /// Replaces the client for the attempts that follow.
    Client(Client),
    /// The trust has changed. Ends the session if its controller is no longer trusted. It must be the trust
    /// of the client's verifier.
    Recheck(Trust),
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("the controller has closed the session: {0}")]
    Closed(CloseCode),
    #[error("the controller refuses the certificate: {0}")]
    CertificateRefused(CertificateAlert),
    #[error("the controller is not trusted any more: {0}")]
    Untrusted(Refusal),
    #[error("the connection to the controller is lost: {0}")]
    Lost(#[from] quinn::ConnectionError),
    /// The controller has sent nothing, or received nothing, for too long.
    #[error("the controller has been silent for too long")]
    Silent,
    #[error("the controller violates the protocol: {0}")]
    Protocol(String),
    #[error("the controller violates the protocol: {0}")]
    Refused(#[from] Refused),
}

impl SessionError {
    /// Whether the edge should reconnect at once.
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
    /// `have` is the state that the edge has, such as the last one saved to disk. `software` is the edge's
    /// version; `boot` is random and new at every start.
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
            problems: Problems::default(),
            renewing: false,
            outbox: Outbox::default(),
            stay: STAY,
            lost: None,
        }
    }

    /// Sets the average time with one of several controllers. The default is an hour.
    #[must_use]
    pub fn with_stay(self, stay: Duration) -> Self {
        Self { stay, ..self }
    }

    /// Runs until `shutdown`, or until the other end of a channel is dropped. Then it closes the connection,
    /// which takes at most a tenth of a second.
    ///
    /// A slow reader of `events` misses only events that a later one replaces.
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
                    let Some(attempt) = self.wait_offline(&mut outside, connecting).await else {
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
                        End::Shutdown => return,
                        End::Moved(connected) => {
                            self.end_session();
                            moved = Some(connected);
                            continue;
                        }
                        End::Lost(error) => error,
                    }
                }
                Err(unreachable) => unreachable.into(),
            };
            backoff.record_session(started.elapsed(), error.is_loss());
            let delay = match matches!(error, SessionError::Closed(CloseCode::InUse)) {
                true => backoff::in_use_delay(rand::random()),
                false => backoff.delay(rand::random()),
            };
            self.report_loss(error);
            if self.wait_offline(&mut outside, sleep(delay)).await.is_none() {
                return;
            }
        }
    }

    /// Waits for `until` without a session and executes commands meanwhile. `None`: shut down.
    async fn wait_offline<F: Future>(
        &mut self,
        outside: &mut Outside<'_>,
        until: F,
    ) -> Option<F::Output> {
        pin!(until);
        loop {
            select! {
                output = &mut until => return Some(output),
                next = outside.next(&mut self.outbox) => {
                    if let Some(command) = next? {
                        self.execute_offline(command);
                    }
                }
            }
        }
    }

    fn execute_offline(&mut self, command: Command) {
        match command {
            Command::Ack(version) => self.acked = Some(version),
            Command::Report(report) => self.report = Some(limit_links(report)),
            Command::Problems(problems) => self.problems = limit_problems(problems),
            Command::Client(client) => self.client = client,
            Command::Renew { .. } => self.refuse_renewal(),
            // The next handshake uses the new trust.
            Command::Recheck(_) => {}
        }
    }

    fn report_loss(&mut self, error: SessionError) {
        tracing::debug!(%error, "no session with a controller");
        self.end_session();
        self.outbox.push(Event::Disconnected(error));
    }

    /// Drops what the session that has ended left incomplete.
    fn end_session(&mut self) {
        self.assembler.reset();
        if std::mem::take(&mut self.renewing) {
            self.refuse_renewal();
        }
    }

    fn refuse_renewal(&mut self) {
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

fn limit_problems(mut all: Problems) -> Problems {
    let beyond = all.problems.len().saturating_sub(Problems::MAX);
    all.problems.truncate(Problems::MAX);
    all.more = all.more.saturating_add(u32::try_from(beyond).unwrap_or(u32::MAX));
    all
}

fn limit_links(mut report: Report) -> Report {
    if report.links.len() > Report::MAX_LINKS {
        report.links.sort_by_key(|link| link.up);
        report.links.truncate(Report::MAX_LINKS);
    }
    report
}

/// The channels to the rest of the edge.
struct Outside<'a> {
    events: mpsc::Sender<Event>,
    commands: &'a mut mpsc::Receiver<Command>,
    shutdown: CancellationToken,
}

impl Outside<'_> {
    /// Sends an event or receives a command, whichever is possible first. `Some(None)` after an event,
    /// `None` at shutdown. Cancel-safe.
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
    match CertificateAlert::of(&error) {
        Some(reason) => SessionError::CertificateRefused(reason),
        None => SessionError::Lost(error),
    }
}
