//! Frames: `u32` length, `u16` type, body; numbers big-endian. The length counts type and body and
//! is at most [`MAX_FRAME`], or [`MAX_UNAUTHENTICATED`] from a peer that has not shown who it is.
//! The body is bincode 2 (`config::standard()`), read to its last byte or refused.
//!
//! What a frame may cost to read is bounded as well, by a budget of its own: see [`Frame::decode`].

mod budget;

use bincode::{
    config::{self, Config},
    error::{DecodeError, EncodeError},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

/// The most that a length may say, type and body, in bytes.
pub const MAX_FRAME: usize = 65_536;
/// The same from a peer that has not shown who it is.
pub const MAX_UNAUTHENTICATED: usize = 4_096;

const LENGTH: usize = size_of::<u32>();
const TYPE: usize = size_of::<u16>();

/// A message with its type number. Bodies are frozen: see [`v1`](crate::v1).
pub trait Message: Serialize + DeserializeOwned {
    /// The type number.
    const TYPE: u16;
}

/// What may arrive on a stream: one message, or one of several.
pub trait Incoming: Sized {
    /// Reads a frame; `Ok(None)` if its type is not among these, which is to be skipped.
    ///
    /// # Errors
    /// When the type is among these and the body is not one of it.
    fn parse(frame: &Frame) -> Result<Option<Self>, Malformed>;
}

impl<M: Message> Incoming for M {
    fn parse(frame: &Frame) -> Result<Option<Self>, Malformed> {
        (frame.kind == M::TYPE).then(|| frame.decode()).transpose()
    }
}

/// A message is larger than a frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of type {kind} is {len} bytes long; at most {max} fit a frame")]
pub struct TooLarge {
    /// The message's type.
    pub kind: u16,
    /// Its length with the type.
    pub len: usize,
    /// What it may be.
    pub max: usize,
}

/// A frame's length is not one that may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame says it is {len} bytes long; {TYPE} to {max} are allowed")]
pub struct BadLength {
    /// What the frame says.
    pub len: u32,
    /// What it may say.
    pub max: usize,
}

/// A frame's body is not what its type says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of type {kind} is malformed: {reason}")]
pub struct Malformed {
    /// The frame's type.
    pub kind: u16,
    /// What is wrong.
    pub reason: String,
}

/// One frame that was received: its type and its body, not looked into yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type.
    pub kind: u16,
    /// The body.
    pub body: Bytes,
}

impl Frame {
    /// Reads the body as a message, whatever the frame's type.
    ///
    /// What that allocates is counted while it goes, and stops at [`BUDGET`]: a list is paid for
    /// element by element, never by the length that it claims. A sender keeps within it too; the
    /// iterators of [`desired`](crate::desired) and [`Reply::split`](crate::v1::Reply::split) do.
    ///
    /// # Errors
    /// When the body isn't exactly one such message, or costs more than the budget.
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

/// Encodes a message as a frame.
///
/// # Errors
/// When it is larger than [`MAX_FRAME`].
pub fn encode<M: Message>(message: &M) -> Result<Bytes, TooLarge> {
    encode_within(message, MAX_FRAME)
}

/// Encodes a message as a frame for a peer that takes `max` bytes of type and body.
///
/// # Errors
/// When it is larger than that.
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

/// Takes bytes as they come and gives frames. Holds at most one frame and what was pushed after it.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    max: usize,
}

impl Decoder {
    /// For frames with a length of at most `max`.
    pub fn new(max: usize) -> Self {
        Self { buffer: BytesMut::new(), max }
    }

    /// How many more bytes the next step needs: the rest of the length, or that of the frame. 0 if
    /// [`next`](Self::next_frame) has something to say now.
    pub fn wants(&self) -> usize {
        let whole = self.announced().ok().flatten().map_or(LENGTH, |len| LENGTH + len);
        whole.saturating_sub(self.buffer.len())
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is complete.
    ///
    /// # Errors
    /// As soon as a length is there that may not be, and from then on.
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

    /// Whether nothing is held: a stream that ends here ends between two frames.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next frame's length, once it is there.
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
    // Of these the derived text is all there is; it may quote a string of the frame.
    error.to_string().chars().take(300).collect()
}

/// Keeps at most `max` bytes and counts them all.
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

/// Gives types their numbers.
macro_rules! message {
    ($name:ident = $kind:literal) => {
        impl $crate::frame::Message for $name {
            const TYPE: u16 = $kind;
        }
    };
}

/// Defines an enum of the messages that may come on one stream.
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
