//! The session of an edge with a controller: one bidirectional stream, opened by the edge.

use cframe_pki::identity::Label;
use serde::{Deserialize, Serialize};

use super::{CallError, Enrolled, Update, Version};
use crate::frame::{message, messages};

/// Edge → controller: the first frame of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeHello {
    /// The version of the state that the edge has; `None` asks for a snapshot.
    pub have: Option<Version>,
    /// Version of the edge's software, for people.
    pub software: String,
    /// Random, new at every start of the edge. Of two sessions of one edge the later one counts;
    /// this tells a restart from a second host with the same key.
    pub boot: [u8; 16],
}

/// Edge → controller: the state of this version is applied. The controller may send what has
/// changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The `to` of the [`Update`] that was applied.
    pub version: Version,
}

/// Either way: answer with a [`Pong`]. Sent by whoever has sent nothing for 2 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Comes back in the answer.
    pub nonce: u64,
    /// From an edge: what it has applied. From a controller: the newest there is for the edge.
    pub version: Option<Version>,
}

/// The answer to a [`Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The ping's.
    pub nonce: u64,
    /// As in [`Ping`].
    pub version: Option<Version>,
}

/// Edge → controller: how the edge is. Every 10 s, and at most once a second when a link changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The links, at most [`Report::MAX_LINKS`].
    pub links: Vec<LinkReport>,
    /// When the edge's certificate expires.
    pub cert_not_after: u64,
    /// What the edge has applied.
    pub applied: Option<Version>,
}

impl Report {
    /// More links than these are left out of a report.
    pub const MAX_LINKS: usize = 500;
}

/// One link as an edge sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The edge at the other end.
    pub peer: Label,
    /// Whether it carries traffic.
    pub up: bool,
    /// Smoothed round-trip time in microseconds; 0 if not known.
    pub rtt_us: u32,
    /// Largest UDP payload that the path carries whole, in bytes; 0 if not known.
    pub path_mtu: u16,
    /// When `up` became what it is.
    pub since_unix: u64,
}

/// Edge → controller: a certificate for a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PKCS #10 request in DER. Only its public key is used.
    pub csr: Vec<u8>,
}

/// Controller → edge: the answer to a [`RenewRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewReply {
    /// The new certificate, or why there is none.
    pub result: Result<Enrolled, CallError>,
}

/// Controller → edge: renew now, somebody asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewNow {}

/// Controller → edge: the session ends, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// Why.
    pub reason: GoodbyeReason,
}

/// Why a controller ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GoodbyeReason {
    /// The controller stops; another one, or the same one later, takes over.
    Shutdown,
    /// The edge's certificate was revoked.
    Revoked,
    /// The edge was removed from its namespace.
    Removed,
    /// The edge has begun another session.
    Replaced,
}

message!(EdgeHello = 1);
message!(Ack = 3);
message!(Ping = 4);
message!(Pong = 5);
message!(Report = 6);
message!(RenewRequest = 7);
message!(RenewReply = 8);
message!(Goodbye = 9);
message!(RenewNow = 10);

messages! {
    /// What an edge sends in its session.
    pub enum FromEdge {
        /// First, and once.
        Hello(EdgeHello),
        /// A state is applied.
        Ack(Ack),
        /// To be answered.
        Ping(Ping),
        /// An answer.
        Pong(Pong),
        /// How the edge is.
        Report(Report),
        /// A certificate is wanted.
        RenewRequest(RenewRequest),
    }
}

messages! {
    /// What a controller sends in an edge's session.
    pub enum ToEdge {
        /// A piece of state.
        Update(Update),
        /// To be answered.
        Ping(Ping),
        /// An answer.
        Pong(Pong),
        /// A certificate, or none.
        RenewReply(RenewReply),
        /// The end.
        Goodbye(Goodbye),
        /// The certificate is to be renewed.
        RenewNow(RenewNow),
    }
}
