//! Why links end: the codes on the wire, and the words for people.

use quinn_proto::{ConnectionError, TransportErrorCode, VarInt};

/// Application error codes of `cframe-mesh/1`; the peer gets the code and [`Self::reason`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CloseCode {
    Shutdown = 0,
    /// A newer link to the same peer is in use.
    Replaced = 1,
    /// The peer is not in this edge's desired state (yet).
    NotAPeer = 2,
    /// The peer was removed, its certificate revoked, or its root removed.
    Removed = 3,
    /// The certificate of one side expired.
    Expired = 4,
    /// The peer violated the protocol.
    Protocol = 5,
    /// The handshake timed out.
    Slow = 6,
}

impl CloseCode {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "the edge stops",
            Self::Replaced => "replaced by a newer link",
            Self::NotAPeer => "not a peer in the desired state",
            Self::Removed => "removed or revoked",
            Self::Expired => "a certificate expired",
            Self::Protocol => "protocol error",
            Self::Slow => "the handshake took too long",
        }
    }

    /// Whether a peer that closes with this code refuses this edge, not only this one connection.
    fn is_refusal(code: VarInt) -> bool {
        [Self::NotAPeer, Self::Removed, Self::Expired, Self::Protocol]
            .iter()
            .any(|refusal| VarInt::from_u32(*refusal as u32) == code)
    }
}

/// Why a handshake failed, if one side refused the other; `None` if there was no answer.
pub(crate) fn refusal(reason: &ConnectionError) -> Option<String> {
    match reason {
        ConnectionError::TransportError(error) => Some(format!("this edge: {error}")),
        // APPLICATION_ERROR hides a code that only an established connection may carry (RFC 9000
        // §10.2.3): the peer closed this connection for a reason of its own.
        ConnectionError::ConnectionClosed(close)
            if close.error_code != TransportErrorCode::APPLICATION_ERROR =>
        {
            Some(format!("the peer: {close}"))
        }
        ConnectionError::ApplicationClosed(close) if CloseCode::is_refusal(close.error_code) => {
            Some(format!("the peer: {close}"))
        }
        ConnectionError::VersionMismatch => Some("no QUIC version in common".to_owned()),
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::CidsExhausted
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed => None,
    }
}

/// Why a link ended, for a person.
pub(crate) fn describe(reason: &ConnectionError) -> String {
    match reason {
        ConnectionError::TimedOut => "timed out: nothing received from the peer".to_owned(),
        ConnectionError::Reset => "the peer restarted and no longer knows the link".to_owned(),
        ConnectionError::ApplicationClosed(close) => format!("the peer: {close}"),
        ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::CidsExhausted
        | ConnectionError::LocallyClosed => reason.to_string(),
    }
}
