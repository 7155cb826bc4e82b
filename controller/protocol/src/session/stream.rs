//! Frames on QUIC streams.

use bytes::Bytes;
use quinn::{RecvStream, SendStream};

use crate::frame::{self, BadLength, Decoder, Incoming, Malformed, Message, TooLarge};

/// Reads frames. Reads no further than the frame that it is at.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    decoder: Decoder,
}

/// No frame could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The stream or its connection is lost.
    #[error(transparent)]
    Stream(#[from] quinn::ReadError),
    /// The stream ends within a frame.
    #[error("the stream ends within a frame")]
    CutOff,
    /// A frame is longer than may be, or too short.
    #[error(transparent)]
    Length(#[from] BadLength),
    /// A frame's content is not what its type says.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl FrameReader {
    /// For frames of at most `max` bytes of type and body: [`frame::MAX_FRAME`], or
    /// [`frame::MAX_UNAUTHENTICATED`] where anybody may connect.
    pub fn new(stream: RecvStream, max: usize) -> Self {
        Self { stream, decoder: Decoder::new(max) }
    }

    /// The next message; frames of other types are skipped. `None` at the stream's end.
    ///
    /// Cancel-safe: what has been read of a frame is kept.
    ///
    /// # Errors
    /// When the stream is lost or a frame is not what it should be. The stream is of no more use then.
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

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
}

/// No frame could be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The stream or its connection is lost.
    #[error(transparent)]
    Stream(#[from] quinn::WriteError),
    /// The message doesn't fit a frame. Nothing was written.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl FrameWriter {
    /// Writes to a stream.
    pub fn new(stream: SendStream) -> Self {
        Self { stream }
    }

    /// Writes a message, waiting while the peer's windows are full.
    ///
    /// Not cancel-safe: a frame may be cut off, after which the stream is of no more use.
    ///
    /// # Errors
    /// When the message doesn't fit a frame, or the stream is lost.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), WriteError> {
        self.send_encoded(frame::encode(message)?).await
    }

    /// Writes a frame that [`encode`](frame::encode) has made, perhaps for several peers. Otherwise as
    /// [`send`](Self::send).
    ///
    /// # Errors
    /// When the stream is lost.
    pub async fn send_encoded(&mut self, frame: Bytes) -> Result<(), WriteError> {
        Ok(self.stream.write_chunk(frame).await?)
    }

    /// Ends the stream after what was written. Returns at once.
    pub fn finish(&mut self) {
        // The only error is that the stream has ended before.
        let _ = self.stream.finish();
    }

    /// Waits until the peer has everything or has gone. To be called after
    /// [`finish`](Self::finish) and before the connection is closed, which throws away what is in flight.
    pub async fn delivered(&mut self) {
        let _ = self.stream.stopped().await;
    }
}
