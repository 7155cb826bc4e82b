//! Frames: `u32` length, `u16` type, body; numbers big-endian. The length counts type and body and
//! is at most [`MAX_FRAME`], or [`MAX_UNAUTHENTICATED`] from a peer without a certificate. The body is
//! bincode 2 (`config::standard()`) and must have no trailing bytes.
//!
//! The memory that decoding takes has a limit of its own: see [`Frame::decode`].

mod budget;

use bincode::{
    config::{self, Config},
    error::{DecodeError, EncodeError},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of type and body.
pub const MAX_FRAME: usize = 65_536;
/// Bytes of type and body from a peer without a certificate.
pub const MAX_UNAUTHENTICATED: usize = 4_096;

const LENGTH: usize = size_of::<u32>();
const TYPE: usize = size_of::<u16>();

/// A message with a type number. Encodings are frozen: see [`v1`](crate::v1).
pub trait Message: Serialize + DeserializeOwned {
    const TYPE: u16;
}

/// What a stream may carry: one message, or one of several.
pub trait Incoming: Sized {
    /// `Ok(None)` for a frame of another type, which the reader skips.
    fn parse(frame: &Frame) -> Result<Option<Self>, Malformed>;
}

impl<M: Message> Incoming for M {
    fn parse(frame: &Frame) -> Result<Option<Self>, Malformed> {
        (frame.kind == M::TYPE).then(|| frame.decode()).transpose()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of type {kind} is {len} bytes long; at most {max} fit a frame")]
pub struct TooLarge {
    pub kind: u16,
    /// Of type and body.
    pub len: usize,
    pub max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame's length is {len} bytes; {TYPE} to {max} are allowed")]
pub struct BadLength {
    pub len: u32,
    pub max: usize,
}

/// A frame's body is not a message of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of type {kind} is malformed: {reason}")]
pub struct Malformed {
    pub kind: u16,
    pub reason: String,
}

/// A received frame whose body is not decoded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u16,
    pub body: Bytes,
}

impl Frame {
    /// Decodes the body as a message, whatever the frame's type.
    ///
    /// Decoding counts what it allocates and fails above [`BUDGET`]. A list is charged element by
    /// element and not by the length that it claims. Senders must respect the budget too:
    /// [`updates`](crate::desired::updates) and [`Reply::split`](crate::v1::Reply::split) do.
    pub fn decode<M: DeserializeOwned>(&self) -> Result<M, Malformed> {
        let malformed = |reason| Malformed { kind: self.kind, reason };
        let (message, used) = bincode::serde::borrow_decode_from_slice::<budget::Budgeted<M>, _>(
            &self.body,
            config(),
        )
        .map_err(|error| malformed(describe(&error)))?;
        match self.body.len() - used {
            0 => Ok(message.0),
            rest => Err(malformed(format!("{rest} bytes follow its end"))),
        }
    }
}

pub use budget::BUDGET;
pub(crate) use budget::seq_cost;

pub fn encode<M: Message>(message: &M) -> Result<Bytes, TooLarge> {
    encode_within(message, MAX_FRAME)
}

/// `max` is in bytes of type and body.
pub fn encode_within<M: Message>(message: &M, max: usize) -> Result<Bytes, TooLarge> {
    let mut writer = Writer { frame: BytesMut::with_capacity(128), len: TYPE, max };
    writer.frame.put_u32(0);
    writer.frame.put_u16(M::TYPE);
    bincode::serde::encode_into_writer(message, &mut writer, config())
        .expect("wire types always serialize: lists know their length, and the writer never fails");
    let Writer { mut frame, len, .. } = writer;
    if len > max {
        return Err(TooLarge { kind: M::TYPE, len, max });
    }
    (&mut frame[..LENGTH]).put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    Ok(frame.freeze())
}

/// Cuts a stream of bytes into frames. Holds at most one frame and what was pushed after it.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    max: usize,
}

impl Decoder {
    /// `max` is in bytes of type and body.
    pub fn new(max: usize) -> Self {
        Self { buffer: BytesMut::new(), max }
    }

    /// How many more bytes [`next_frame`](Self::next_frame) needs: the rest of the length, or of the
    /// frame. 0 if it has a frame or an error now.
    pub fn wants(&self) -> usize {
        let whole = self.announced().ok().flatten().map_or(LENGTH, |len| LENGTH + len);
        whole.saturating_sub(self.buffer.len())
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is complete. After an error, all further calls fail too.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadLength> {
        let Some(len) = self.announced()? else {
            return Ok(None);
        };
        if self.buffer.len() < LENGTH + len {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(LENGTH + len).freeze();
        frame.advance(LENGTH);
        let kind = frame.get_u16();
        Ok(Some(Frame { kind, body: frame }))
    }

    /// Whether a stream that ends here ends between two frames.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next frame's length, if it has arrived.
    fn announced(&self) -> Result<Option<usize>, BadLength> {
        let Some(bytes) = self.buffer.first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*bytes);
        match usize::try_from(len) {
            Ok(fits) if (TYPE..=self.max).contains(&fits) => Ok(Some(fits)),
            _ => Err(BadLength { len, max: self.max }),
        }
    }
}

fn config() -> impl Config {
    config::standard().with_limit::<MAX_FRAME>()
}

fn describe(error: &DecodeError) -> String {
    // The text may quote a string of the frame.
    error.to_string().chars().take(300).collect()
}

/// Stores at most `max` bytes and counts all.
struct Writer {
    frame: BytesMut,
    len: usize,
    max: usize,
}

impl bincode::enc::write::Writer for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.len += bytes.len();
        if self.len <= self.max {
            self.frame.extend_from_slice(bytes);
        }
        Ok(())
    }
}

/// Sets a message's type number.
macro_rules! message {
    ($name:ident = $kind:literal) => {
        impl $crate::frame::Message for $name {
            const TYPE: u16 = $kind;
        }
    };
}

/// Defines an enum of the messages that a stream may carry.
macro_rules! messages {
    (
        $(#[$doc:meta])*
        pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident($message:ty),)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant($message),)* }

        impl $crate::frame::Incoming for $name {
            fn parse(
                frame: &$crate::frame::Frame,
            ) -> Result<Option<Self>, $crate::frame::Malformed> {
                match frame.kind {
                    $(<$message as $crate::frame::Message>::TYPE => {
                        frame.decode().map(|message| Some(Self::$variant(message)))
                    })*
                    _ => Ok(None),
                }
            }
        }

        $(impl From<$message> for $name {
            fn from(message: $message) -> Self {
                Self::$variant(message)
            }
        })*
    };
}

pub(crate) use {message, messages};
