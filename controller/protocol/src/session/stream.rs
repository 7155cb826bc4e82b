//! Frames on QUIC streams.

use bytes::Bytes;
use quinn::{RecvStream, SendStream};

use crate::frame::{self, BadLength, Decoder, Incoming, Malformed, Message, TooLarge};

/// Reads frames, and no byte beyond the current frame.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    decoder: Decoder,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Stream(#[from] quinn::ReadError),
    #[error("the stream ends within a frame")]
    CutOff,
    #[error(transparent)]
    Length(#[from] BadLength),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl FrameReader {
    /// `max` is in bytes of type and body: [`frame::MAX_FRAME`], or [`frame::MAX_UNAUTHENTICATED`] for
    /// peers without a certificate.
    pub fn new(stream: RecvStream, max: usize) -> Self {
        Self { stream, decoder: Decoder::new(max) }
    }

    /// The next message; frames of other types are skipped. `None` at the stream's end. After an error
    /// the stream cannot be used any more.
    ///
    /// Cancel-safe: a partly read frame is stored.
    pub async fn next<T: Incoming>(&mut self) -> Result<Option<T>, ReadError> {
        loop {
            while let Some(frame) = self.decoder.next_frame()? {
                if let Some(message) = T::parse(&frame)? {
                    return Ok(Some(message));
                }
                tracing::trace!(kind = frame.kind, "skipped a frame of an unknown type");
            }
            match self.stream.read_chunk(self.decoder.wants(), true).await? {
                Some(chunk) => self.decoder.push(&chunk.bytes),
                None if self.decoder.is_empty() => return Ok(None),
                None => return Err(ReadError::CutOff),
            }
        }
    }
}

#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Stream(#[from] quinn::WriteError),
    /// Nothing was written.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl FrameWriter {
    pub fn new(stream: SendStream) -> Self {
        Self { stream }
    }

    /// Writes a message, and waits while the peer's windows are full.
    ///
    /// Not cancel-safe: a frame may be cut off, and then the stream cannot be used any more.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), WriteError> {
        self.send_encoded(frame::encode(message)?).await
    }

    /// Writes a frame of [`encode`](frame::encode), which may be shared by several peers. Otherwise like
    /// [`send`](Self::send).
    pub async fn send_encoded(&mut self, frame: Bytes) -> Result<(), WriteError> {
        Ok(self.stream.write_chunk(frame).await?)
    }

    /// Ends the stream after what was written. Doesn't wait.
    pub fn finish(&mut self) {
        // The only error is that the stream has already ended.
        let _ = self.stream.finish();
    }

    /// Waits until the peer has received everything or has gone. Call it after [`finish`](Self::finish) and
    /// before closing the connection, which discards data in flight.
    pub async fn delivered(&mut self) {
        let _ = self.stream.stopped().await;
    }
}
