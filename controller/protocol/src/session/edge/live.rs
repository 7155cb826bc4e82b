//! A session that stands.

use std::{pin::Pin, time::Duration};

use cframe_pki::verifier::PeerIdentity;
use tokio::{
    select,
    time::{Instant, sleep_until, timeout_at},
};

use super::{Command, EdgeSession, End, Outside, SessionError, lost_connection, within_limit};
use crate::{
    desired::Assembled,
    frame::{MAX_FRAME, Message},
    session::{
        CloseCode, Connected, DEAD_AFTER, Event, FrameReader, FrameWriter, Unreachable, WriteError,
    },
    v1::{Ack, Goodbye, GoodbyeReason, Ping, Pong, RenewRequest, ToEdge},
};

/// An edge pings sooner than a controller would, which then has nothing to ask: a controller that was killed
/// and is back answers the first packet that it gets with a reset. For ten thousand edges it is what a
/// controller does all day: half of a core at this rate.
const PING_AFTER: Duration = Duration::from_millis(1_500);
/// A controller that has spoken and is silent for this long is left for another one, if there is another. It
/// has had two seconds for its answer to a ping.
const LEAVE_AFTER: Duration = Duration::from_millis(3_500);
/// The pause after no other controller was found to move to.
const MOVE_AGAIN: Duration = Duration::from_secs(600);

impl EdgeSession {
    /// Runs a session to its end and closes it.
    pub(super) async fn session(&mut self, connected: Connected, outside: &mut Outside<'_>) -> End {
        let shutdown = outside.shutdown.clone();
        let end = select! {
            // Nor does a peer that takes nothing delay it.
            () = shutdown.cancelled() => Ok(None),
            end = self.converse(&connected, outside) => end,
        };
        let error = match end {
            Ok(None) => {
                connected.close(CloseCode::Done).await;
                return End::Over;
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
        // The next attempt doesn't wait until the peer has heard of it.
        connected.connection.close(code.into(), code.to_string().as_bytes());
        End::Lost(error)
    }

    /// Answers with another connection if the edge has moved to that, with none if everything ends.
    async fn converse(
        &mut self,
        connected: &Connected,
        outside: &mut Outside<'_>,
    ) -> Result<Option<Box<Connected>>, SessionError> {
        let live = &mut Live::open(connected, self).await?;
        let controller = connected.connection.remote_address();
        self.outbox.push(Event::Connected { controller });
        match (self.talk(live, outside).await, live.goodbye) {
            // What follows a goodbye is how it was carried out: the stream ends before the connection.
            (Err(SessionError::Protocol(_)), Some(reason)) => {
                Err(SessionError::Closed(reason.into()))
            }
            (end, _) => end,
        }
    }

    async fn talk(
        &mut self,
        live: &mut Live,
        outside: &mut Outside<'_>,
    ) -> Result<Option<Box<Connected>>, SessionError> {
        if let Some(report) = self.report.take() {
            live.send(&report).await?;
        }
        // Not all at once, and not for ever in step.
        let mut move_at = Instant::now() + self.stay.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        let mut moving: Option<Moving> = None;
        loop {
            let tick = live.next_tick(self.alternatives());
            select! {
                () = sleep_until(move_at), if moving.is_none() && self.alternatives() => {
                    let client = self.client.clone();
                    moving = Some(Box::pin(async move { client.connect().await }));
                }
                moved = arrival(&mut moving), if moving.is_some() => match moved {
                    Ok(connected) => return Ok(Some(Box::new(connected))),
                    Err(error) => {
                        tracing::debug!(%error, "no other controller to move to");
                        (moving, move_at) = (None, Instant::now() + MOVE_AGAIN);
                    }
                },
                message = live.reader.next::<ToEdge>() => match message? {
                    Some(message) => self.message(live, message).await?,
                    None => return Err(SessionError::Protocol("it has ended the stream".into())),
                },
                heard = outside.next(&mut self.outbox) => match heard {
                    Some(Some(command)) => self.command(live, command).await?,
                    Some(None) => {}
                    None => return Ok(None),
                },
                () = sleep_until(tick) => self.tick(live).await?,
            }
        }
    }

    /// Whether there may be another controller.
    fn alternatives(&self) -> bool {
        self.client.addresses.len() > 1
    }

    async fn message(&mut self, live: &mut Live, message: ToEdge) -> Result<(), SessionError> {
        live.heard = Instant::now();
        live.spoken = true;
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

    async fn command(&mut self, live: &mut Live, command: Command) -> Result<(), SessionError> {
        match command {
            Command::Ack(version) => {
                self.acked = Some(version);
                live.send(&Ack { version }).await
            }
            Command::Report(report) => live.send(&within_limit(report)).await,
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

    /// Either the controller is dead, or it is time for a ping.
    async fn tick(&mut self, live: &mut Live) -> Result<(), SessionError> {
        let now = Instant::now();
        if now >= live.dead_at(self.alternatives()) {
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

/// A connection to another controller on its way.
type Moving = Pin<Box<dyn Future<Output = Result<Connected, Unreachable>> + Send>>;

async fn arrival(moving: &mut Option<Moving>) -> Result<Connected, Unreachable> {
    match moving {
        Some(moving) => moving.await,
        None => std::future::pending().await,
    }
}

/// The stream and its clocks.
struct Live {
    reader: FrameReader,
    writer: FrameWriter,
    /// By which certificate the controller is one.
    controller: Option<PeerIdentity>,
    heard: Instant,
    /// The controller has said something in this session: it is not only busy taking edges in.
    spoken: bool,
    sent: Instant,
    pinged: Instant,
    nonce: u64,
    /// Why the controller is about to close.
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
            heard: now,
            spoken: false,
            sent: now,
            pinged: now,
            nonce: 0,
            goodbye: None,
        };
        live.send(&session.hello()).await?;
        Ok(live)
    }

    /// A peer that takes nothing is as dead as one that says nothing. A message too large for a
    /// frame is not sent, which is no fault of the peer's.
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

    /// When nothing was sent or heard for a while, and no sooner after the last ping.
    fn next_ping(&self) -> Instant {
        self.pinged.max(self.sent.min(self.heard)) + PING_AFTER
    }

    fn next_tick(&self, alternatives: bool) -> Instant {
        self.next_ping().min(self.dead_at(alternatives))
    }

    /// When the silence has been too long.
    fn dead_at(&self, alternatives: bool) -> Instant {
        let patience = if alternatives && self.spoken { LEAVE_AFTER } else { DEAD_AFTER };
        self.heard + patience
    }
}
