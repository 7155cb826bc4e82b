//! Admin calls.

use std::time::Duration;

use cframe_pki::verifier::PeerIdentity;
use tokio::time::timeout;

use super::{
    Client, CloseCode, Connected, FrameReader, FrameWriter, ReadError, Unreachable, WriteError,
    certificate_refused,
};
use crate::{
    frame::MAX_FRAME,
    v1::{AdminReply, AdminRequest, Call, CallError, ErrorCode, Reply},
};

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallFailure {
    /// No controller answers. Nothing was done.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The controller refuses, and says why. Nothing was done.
    #[error(transparent)]
    Refused(#[from] CallError),
    /// The connection was lost on the way. A write may have been done.
    #[error("the connection to the controller was lost before its answer was complete: {0}")]
    Lost(#[source] quinn::ConnectionError),
    /// The answer took too long. A write may have been done.
    #[error("the controller has not answered within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The controller's answer is none.
    #[error("the controller's answer cannot be read: {0}")]
    Protocol(String),
}

/// Makes one call: connects, asks, and collects the answer. Rows of lists are in one reply, however
/// many frames they came in.
///
/// # Errors
/// See [`CallFailure`]. `limit` is for all of it.
pub async fn admin_call(
    client: &Client,
    call: Call,
    dry_run: bool,
    limit: Duration,
) -> Result<Vec<Reply>, CallFailure> {
    timeout(limit, async {
        let admin = AdminConnection::connect(client).await?;
        let replies = match admin.call(call, dry_run).await {
            Ok(replies) => replies.collect().await,
            Err(failure) => Err(failure),
        };
        admin.close().await;
        replies
    })
    .await
    .unwrap_or(Err(CallFailure::TimedOut(limit)))
}

/// A connection for admin calls, several at once if need be.
#[derive(Debug)]
pub struct AdminConnection(Connected);

impl AdminConnection {
    /// Connects to whichever controller answers, as [`Client::connect_when_free`] does.
    ///
    /// # Errors
    /// When none does.
    pub async fn connect(client: &Client) -> Result<Self, Unreachable> {
        client.connect_when_free(|_| ()).await.map(Self)
    }

    /// Makes calls over this connection.
    pub fn over(connected: Connected) -> Self {
        Self(connected)
    }

    /// Who answers; `None` if the connection has ended before that was known.
    pub fn peer(&self) -> Option<PeerIdentity> {
        self.0.controller()
    }

    /// Whether it has not ended, as far as this side knows.
    pub fn is_open(&self) -> bool {
        self.0.connection.close_reason().is_none()
    }

    /// Makes a call; the answer is to be read from what is returned.
    ///
    /// # Errors
    /// When the call is too large for a frame, or the connection is lost.
    pub async fn call(&self, call: Call, dry_run: bool) -> Result<Replies, CallFailure> {
        let (send, receive) = self.0.connection.open_bi().await.map_err(lost)?;
        let mut writer = FrameWriter::new(send);
        writer.send(&AdminRequest { call, dry_run }).await?;
        writer.finish();
        Ok(Replies { reader: FrameReader::new(receive, MAX_FRAME), any: false })
    }

    /// Ends the connection. Calls that have no answer yet get none.
    pub async fn close(self) {
        self.0.close(CloseCode::Done).await;
    }
}

/// The answer to one call, as it comes.
#[derive(Debug)]
pub struct Replies {
    reader: FrameReader,
    any: bool,
}

impl Replies {
    /// The next piece; `None` after the last. Cancel-safe.
    ///
    /// # Errors
    /// See [`CallFailure`]. Nothing follows an error.
    pub async fn next(&mut self) -> Result<Option<Reply>, CallFailure> {
        let reply = self.reader.next::<AdminReply>().await?;
        match reply {
            Some(AdminReply { result }) => {
                self.any = true;
                Ok(Some(result?))
            }
            None if self.any => Ok(None),
            None => Err(CallFailure::Protocol("it is empty".into())),
        }
    }

    /// All of it, with the rows of lists put together.
    ///
    /// # Errors
    /// See [`CallFailure`].
    pub async fn collect(mut self) -> Result<Vec<Reply>, CallFailure> {
        let mut replies: Vec<Reply> = Vec::new();
        while let Some(reply) = self.next().await? {
            Reply::add_piece(&mut replies, reply);
        }
        Ok(replies)
    }
}

impl From<ReadError> for CallFailure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stream(quinn::ReadError::ConnectionLost(error)) => lost(error),
            ReadError::Stream(_)
            | ReadError::CutOff
            | ReadError::Length(_)
            | ReadError::Malformed(_) => Self::Protocol(error.to_string()),
        }
    }
}

impl From<WriteError> for CallFailure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stream(quinn::WriteError::ConnectionLost(error)) => lost(error),
            WriteError::TooLarge(error) => {
                CallError::new(ErrorCode::Invalid, format!("the call is too large: {error}")).into()
            }
            WriteError::Stream(error) => Self::Protocol(error.to_string()),
        }
    }
}

fn lost(error: quinn::ConnectionError) -> CallFailure {
    match certificate_refused(&error) {
        Some(reason) => {
            let message = format!("the controller refuses this certificate: {reason}");
            CallError::new(ErrorCode::NotAllowed, message).into()
        }
        None => CallFailure::Lost(error),
    }
}
