//! Admin calls.

use std::time::Duration;

use cframe_pki::identity::PeerIdentity;
use tokio::time::timeout;

use super::{
    CertificateAlert, Client, CloseCode, Connected, FrameReader, FrameWriter, ReadError,
    Unreachable, WriteError,
};
use crate::{
    frame::MAX_FRAME,
    v1::{AdminReply, AdminRequest, Call, CallError, ErrorCode, Reply},
};

#[derive(Debug, thiserror::Error)]
pub enum CallFailure {
    /// The call was not executed.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The call was not executed.
    #[error(transparent)]
    Refused(#[from] CallError),
    /// A write may have been made.
    #[error("the connection to the controller was lost before its answer was complete: {0}")]
    Lost(#[source] quinn::ConnectionError),
    /// A write may have been made.
    #[error("the controller did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("the controller's answer cannot be read: {0}")]
    Protocol(String),
}

/// Connects, makes one call and collects the answer, all within `limit`. The rows of a list are merged
/// into one reply.
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

/// A connection for admin calls, which may run in parallel.
#[derive(Debug)]
pub struct AdminConnection(Connected);

impl AdminConnection {
    /// See [`Client::connect_when_free`].
    pub async fn connect(client: &Client) -> Result<Self, Unreachable> {
        client.connect_when_free(|_| ()).await.map(Self)
    }

    pub fn over(connected: Connected) -> Self {
        Self(connected)
    }

    /// The controller's identity; `None` if the connection ended before that was known.
    pub fn peer(&self) -> Option<PeerIdentity> {
        self.0.controller()
    }

    /// `false` once this side knows that the connection has ended.
    pub fn is_open(&self) -> bool {
        self.0.connection.close_reason().is_none()
    }

    pub async fn call(&self, call: Call, dry_run: bool) -> Result<Replies, CallFailure> {
        let (send, receive) = self.0.connection.open_bi().await.map_err(lost)?;
        let mut writer = FrameWriter::new(send);
        writer.send(&AdminRequest { call, dry_run }).await?;
        writer.finish();
        Ok(Replies { reader: FrameReader::new(receive, MAX_FRAME), any: false })
    }

    /// Calls that are still running get no answer.
    pub async fn close(self) {
        self.0.close(CloseCode::Done).await;
    }
}

/// The pieces of an answer, as they arrive.
#[derive(Debug)]
pub struct Replies {
    reader: FrameReader,
    any: bool,
}

impl Replies {
    /// The next piece; `None` after the last. Nothing follows an error. Cancel-safe.
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

    /// All pieces, with the rows of each list merged.
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
    match CertificateAlert::of(&error) {
        Some(reason) => {
            let message = format!("the controller refuses this certificate: {reason}");
            CallError::new(ErrorCode::NotAllowed, message).into()
        }
        None => CallFailure::Lost(error),
    }
}
