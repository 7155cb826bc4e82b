//! A running session.

use std::{pin::Pin, time::Duration};

use cframe_pki::identity::PeerIdentity;
use tokio::{
    select,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Command, EdgeSession, End, Outside, SessionError, limit_links, limit_problems, lost_connection,
};
use crate::{
    desired::Assembled,
    frame::{MAX_FRAME, Message},
    session::{
        CloseCode, Connected, DEAD_AFTER, Event, FrameReader, FrameWriter, Unreachable, WriteError,
    },
    v1::{Ack, Goodbye, GoodbyeReason, Ping, Pong, RenewRequest, ToEdge},
};

/// Sooner than a controller, so that controllers need not ping: one that was killed and restarted answers
/// the first packet with a stateless reset. Answering ten thousand edges at this rate takes half a core.
const PING_AFTER: Duration = Duration::from_millis(1_500);
/// An edge leaves a controller that has sent something and is then silent for this long, if it knows another
/// one. The controller has had two seconds to answer a ping.
const LEAVE_AFTER: Duration = Duration::from_millis(3_500);
/// After no other controller was found to move to.
const MOVE_RETRY_DELAY: Duration = Duration::from_secs(600);

impl EdgeSession {
    /// Runs a session and closes its connection.
    pub(super) async fn session(&mut self, connected: Connected, outside: &mut Outside<'_>) -> End {
        let shutdown = outside.shutdown.clone();
        let end = select! {
            // A peer that receives nothing must not delay the shutdown.
            () = shutdown.cancelled() => Ok(None),
            end = self.run_session(&connected, outside) => end,
        };
        let error = match end {
            Ok(None) => {
                connected.close(CloseCode::Done).await;
                return End::Shutdown;
            }
            Ok(Some(next)) => {
                connected.connection.close(CloseCode::Done.into(), b"moved");
                return End::Moved(next);
            }
            Err(error) => error,
        };
        let code = match &error {
            SessionError::Protocol(_) | SessionError::Refused(_) => CloseCode::Protocol,
            SessionError::Unreachable(_)
            | SessionError::Closed(_)
            | SessionError::CertificateRefused(_)
            | SessionError::Untrusted(_)
            | SessionError::Lost(_)
            | SessionError::Silent => CloseCode::Done,
        };
        // The next attempt doesn't wait until the close has left this host.
        connected.connection.close(code.into(), code.to_string().as_bytes());
        End::Lost(error)
    }

    /// `Some` if the edge moves to another connection, `None` at shutdown.
    async fn run_session(
        &mut self,
        connected: &Connected,
        outside: &mut Outside<'_>,
    ) -> Result<Option<Box<Connected>>, SessionError> {
        let live = &mut Live::open(connected, self).await?;
        let controller = connected.connection.remote_address();
        self.outbox.push(Event::Connected { controller });
        match (self.exchange(live, outside).await, live.goodbye) {
            // After a goodbye the controller ends the stream, which is no protocol error.
            (Err(SessionError::Protocol(_)), Some(reason)) => {
                Err(SessionError::Closed(reason.into()))
            }
            (end, _) => end,
        }
    }

    async fn exchange(
        &mut self,
        live: &mut Live,
        outside: &mut Outside<'_>,
    ) -> Result<Option<Box<Connected>>, SessionError> {
        if let Some(report) = &self.report {
            live.send(report).await?;
        }
        if !self.problems.problems.is_empty() {
            live.send(&self.problems).await?;
        }
        // Random, so that edges don't move at the same time.
        let mut move_at = Instant::now() + self.stay.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        let mut moving: Option<Moving> = None;
        loop {
            let timer = live.next_timer(self.has_alternatives());
            select! {
                () = sleep_until(move_at), if moving.is_none() && self.has_alternatives() => {
                    let client = self.client.clone();
                    moving = Some(Box::pin(async move { client.connect().await }));
                }
                moved = arrival(&mut moving), if moving.is_some() => match moved {
                    Ok(connected) => return Ok(Some(Box::new(connected))),
                    Err(error) => {
                        tracing::debug!(%error, "no other controller to move to");
                        (moving, move_at) = (None, Instant::now() + MOVE_RETRY_DELAY);
                    }
                },
                message = live.reader.next::<ToEdge>() => match message? {
                    Some(message) => self.handle_message(live, message).await?,
                    None => return Err(SessionError::Protocol("it has ended the stream".into())),
                },
                next = outside.next(&mut self.outbox) => match next {
                    Some(Some(command)) => self.execute(live, command).await?,
                    Some(None) => {}
                    None => return Ok(None),
                },
                () = sleep_until(timer) => self.check_timers(live).await?,
            }
        }
    }

    /// Whether the edge knows another controller.
    fn has_alternatives(&self) -> bool {
        self.client.addresses.len() > 1
    }

    async fn handle_message(
        &mut self,
        live: &mut Live,
        message: ToEdge,
    ) -> Result<(), SessionError> {
        live.received = Instant::now();
        live.answered = true;
        match message {
            ToEdge::Update(update) => {
                if let Some(Assembled { state, delta }) = self.assembler.push(update)? {
                    self.outbox.push(Event::Desired { state, delta });
                }
            }
            ToEdge::Ping(Ping { nonce, .. }) => {
                let version = self.acked;
                live.send(&Pong { nonce, version }).await?;
            }
            ToEdge::Pong(_) => {}
            ToEdge::RenewReply(reply) => {
                self.renewing = false;
                self.outbox.push(Event::RenewReply(reply.result));
            }
            ToEdge::RenewNow(_) => self.outbox.push(Event::RenewNow),
            ToEdge::Goodbye(Goodbye { reason }) => {
                live.goodbye = Some(reason);
                self.outbox.push(Event::Goodbye(reason));
            }
        }
        Ok(())
    }

    async fn execute(&mut self, live: &mut Live, command: Command) -> Result<(), SessionError> {
        match command {
            Command::Ack(version) => {
                self.acked = Some(version);
                live.send(&Ack { version }).await
            }
            Command::Report(report) => {
                let report = self.report.insert(limit_links(report));
                live.send(report).await
            }
            Command::Problems(problems) => {
                self.problems = limit_problems(problems);
                live.send(&self.problems).await
            }
            Command::Renew { csr } => {
                self.renewing = true;
                live.send(&RenewRequest { csr }).await
            }
            Command::Client(client) => {
                self.client = client;
                Ok(())
            }
            Command::Recheck(trust) => match &live.controller {
                Some(controller) => trust.denial(controller).map_err(SessionError::Untrusted),
                None => Ok(()),
            },
        }
    }

    /// Ends the session if the controller is dead, or sends a ping when it is due.
    async fn check_timers(&mut self, live: &mut Live) -> Result<(), SessionError> {
        let now = Instant::now();
        if now >= live.dead_at(self.has_alternatives()) {
            return Err(SessionError::Silent);
        }
        if now >= live.next_ping() {
            live.pinged = now;
            live.nonce += 1;
            let (nonce, version) = (live.nonce, self.acked);
            live.send(&Ping { nonce, version }).await?;
        }
        Ok(())
    }
}

/// An attempt to connect to another controller.
type Moving = Pin<Box<dyn Future<Output = Result<Connected, Unreachable>> + Send>>;

async fn arrival(moving: &mut Option<Moving>) -> Result<Connected, Unreachable> {
    match moving {
        Some(moving) => moving.await,
        None => std::future::pending().await,
    }
}

/// The stream and its timers.
struct Live {
    reader: FrameReader,
    writer: FrameWriter,
    controller: Option<PeerIdentity>,
    received: Instant,
    /// The controller has sent something in this session. Before that it may be busy accepting edges.
    answered: bool,
    sent: Instant,
    pinged: Instant,
    nonce: u64,
    /// The reason that the controller gave before it closes.
    goodbye: Option<GoodbyeReason>,
}

impl Live {
    async fn open(connected: &Connected, session: &EdgeSession) -> Result<Self, SessionError> {
        let now = Instant::now();
        let opening = connected.connection.open_bi();
        let (send, receive) = timeout_at(now + DEAD_AFTER, opening)
            .await
            .map_err(|_| SessionError::Silent)?
            .map_err(lost_connection)?;
        let mut live = Self {
            reader: FrameReader::new(receive, MAX_FRAME),
            writer: FrameWriter::new(send),
            controller: connected.controller(),
            received: now,
            answered: false,
            sent: now,
            pinged: now,
            nonce: 0,
            goodbye: None,
        };
        live.send(&session.hello()).await?;
        Ok(live)
    }

    /// Fails if the peer receives nothing for [`DEAD_AFTER`]. A message that is too large for a frame is
    /// logged and dropped.
    async fn send<M: Message>(&mut self, message: &M) -> Result<(), SessionError> {
        let now = Instant::now();
        let sending = self.writer.send(message);
        match timeout_at(now + DEAD_AFTER, sending).await {
            Err(_) => return Err(SessionError::Silent),
            Ok(Err(WriteError::Stream(error))) => return Err(error.into()),
            Ok(Err(WriteError::TooLarge(error))) => tracing::warn!(%error, "not sent"),
            Ok(Ok(())) => self.sent = now,
        }
        Ok(())
    }

    /// [`PING_AFTER`] the last ping, and the older of the last sent and the last received message.
    fn next_ping(&self) -> Instant {
        self.pinged.max(self.sent.min(self.received)) + PING_AFTER
    }

    fn next_timer(&self, alternatives: bool) -> Instant {
        self.next_ping().min(self.dead_at(alternatives))
    }

    fn dead_at(&self, alternatives: bool) -> Instant {
        let timeout = if alternatives && self.answered { LEAVE_AFTER } else { DEAD_AFTER };
        self.received + timeout
    }
}
