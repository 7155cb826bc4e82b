//! The client's side of the protocol over QUIC, and what both sides share.
//!
//! - [`FrameReader`], [`FrameWriter`]: frames on a stream.
//! - [`transport`]: QUIC settings of servers and clients.
//! - [`Client`]: dialling controllers.
//! - [`EdgeSession`]: an edge's session, which reconnects by itself.
//! - [`admin_call`], [`AdminConnection`]: admin calls.
//! - [`enroll`]: enrolment with a join token.

mod admin;
mod backoff;
mod dial;
mod edge;
mod enroll;
mod stream;
pub mod transport;

use std::{fmt, time::Duration};

use quinn::{ConnectionError, VarInt};

use crate::v1::GoodbyeReason;

pub use admin::{AdminConnection, CallFailure, Replies, admin_call};
pub use dial::{Client, Connected, DialError, Unreachable};
pub use edge::{Command, EdgeSession, Event, SessionError};
pub use enroll::{EnrollFailure, enroll};
pub use stream::{FrameReader, FrameWriter, ReadError, WriteError};

/// A side that has sent nothing for this long sends a ping. An edge does so sooner.
pub const PING_AFTER: Duration = Duration::from_secs(2);
/// A peer that has sent no frame for this long is dead. An edge that knows several controllers leaves one
/// sooner.
pub const DEAD_AFTER: Duration = Duration::from_secs(6);

/// Application error codes of QUIC's CONNECTION_CLOSE (RFC 9000 §19.19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseCode {
    Done = 0,
    /// The peer broke the protocol.
    Protocol = 1,
    Revoked = 2,
    Removed = 3,
    Shutdown = 4,
    /// This side is overloaded. The peer should retry later, or connect to another controller.
    Busy = 5,
    /// Another host with the same identity has a session.
    InUse = 6,
}

impl CloseCode {
    /// `None` if the connection was not closed by the peer's application, or with an unknown code.
    pub fn of(error: &ConnectionError) -> Option<Self> {
        let ConnectionError::ApplicationClosed(close) = error else {
            return None;
        };
        let all = [
            Self::Done,
            Self::Protocol,
            Self::Revoked,
            Self::Removed,
            Self::Shutdown,
            Self::Busy,
            Self::InUse,
        ];
        all.into_iter().find(|code| VarInt::from(*code) == close.error_code)
    }
}

impl From<GoodbyeReason> for CloseCode {
    fn from(reason: GoodbyeReason) -> Self {
        match reason {
            GoodbyeReason::Shutdown => Self::Shutdown,
            GoodbyeReason::Revoked => Self::Revoked,
            GoodbyeReason::Removed => Self::Removed,
            GoodbyeReason::Replaced => Self::Done,
            GoodbyeReason::InUse => Self::InUse,
        }
    }
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(code as u32)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Protocol => "protocol error",
            Self::Revoked => "revoked",
            Self::Removed => "removed",
            Self::Shutdown => "shutdown",
            Self::Busy => "busy",
            Self::InUse => "identity in use",
        })
    }
}

/// A TLS alert about a certificate (RFC 8446 §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateAlert(u8);

impl CertificateAlert {
    const EXPIRED: u8 = 45;

    /// The alert by which the peer refused our certificate. In TLS 1.3 the client's handshake has finished
    /// by then, so that an established connection ends with this.
    pub fn of(error: &ConnectionError) -> Option<Self> {
        let ConnectionError::ConnectionClosed(close) = error else {
            return None;
        };
        // CRYPTO_ERROR is 0x100 and the alert (RFC 9001 §4.8).
        let alert = u64::from(close.error_code).checked_sub(0x100)?;
        // From bad_certificate to access_denied, and certificate_required.
        matches!(alert, 42..=49 | 116).then(|| u8::try_from(alert).ok().map(Self))?
    }

    /// Whether the certificate has expired, or is not valid yet, by the peer's clock.
    pub fn is_about_time(self) -> bool {
        self.0 == Self::EXPIRED
    }
}

impl fmt::Display for CertificateAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            44 => "it is revoked",
            Self::EXPIRED => "by its clock it has expired, or is not valid yet",
            48 => "it is of another mesh, or of a root CA that is not trusted",
            49 => "its identity may not do this",
            116 => "none was sent",
            other => return write!(f, "TLS alert {other}"),
        })
    }
}
