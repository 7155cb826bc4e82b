//! Why links end: the codes on the wire, and the words for people.

use quinn_proto::{ConnectionError, TransportErrorCode, VarInt};

use crate::peer::{Refused, Why};

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
    /// Another process with the peer's identity has a link that works.
    InUse = 7,
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
            Self::InUse => "another host uses this identity, and its link works",
        }
    }

    /// Whether a peer that closes with this code refuses this edge, not only this one connection.
    fn is_refusal(code: VarInt) -> bool {
        [Self::NotAPeer, Self::Removed, Self::Expired, Self::Protocol, Self::InUse]
            .iter()
            .any(|refusal| VarInt::from_u32(*refusal as u32) == code)
    }
}

/// Why a handshake failed, if one side refused the other; `None` if there was no answer.
pub(crate) fn refusal(reason: &ConnectionError) -> Option<Refused> {
    match reason {
        ConnectionError::TransportError(error) => {
            Some(Refused::us(why(error.code), plain(&error.to_string())))
        }
        // APPLICATION_ERROR hides a code that only an established connection may carry (RFC 9000
        // §10.2.3): the peer closed this connection for a reason of its own.
        ConnectionError::ConnectionClosed(close)
            if close.error_code != TransportErrorCode::APPLICATION_ERROR =>
        {
            Some(Refused::peer(why(close.error_code), plain(&close.to_string())))
        }
        ConnectionError::ApplicationClosed(close) if CloseCode::is_refusal(close.error_code) => {
            let not_a_peer = close.error_code == VarInt::from_u32(CloseCode::NotAPeer as u32);
            let why = match not_a_peer {
                true => Why::NotAPeer,
                false if is_in_use(reason) => Why::InUse,
                false => Why::Protocol,
            };
            Some(Refused::peer(why, close))
        }
        ConnectionError::VersionMismatch => {
            Some(Refused::us(Why::Protocol, "no QUIC version in common"))
        }
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::CidsExhausted
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed => None,
    }
}

/// Whether the peer has a working link with another process of this edge's identity.
pub(crate) fn is_in_use(reason: &ConnectionError) -> bool {
    matches!(reason, ConnectionError::ApplicationClosed(close)
        if close.error_code == VarInt::from_u32(CloseCode::InUse as u32))
}

/// A code that is a TLS alert (RFC 9001 §4.8), as one.
fn why(code: TransportErrorCode) -> Why {
    let alert = u64::from(code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok());
    alert.map_or(Why::Protocol, Why::Tls)
}

/// Without the names of rustls' types around the text of our verifier.
fn plain(text: &str) -> String {
    match text.split_once("Other(OtherError(") {
        Some((before, rest)) => format!("{before}{}", rest.trim_end_matches("))")),
        None => text.to_owned(),
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
