//! The session of an edge with a controller: one bidirectional stream, opened by the edge.

use cframe_pki::identity::Label;
use serde::{Deserialize, Serialize};

use super::{CallError, Enrolled, Problems, Update, Version};
use crate::frame::{message, messages};

/// Edge → controller: the first frame of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeHello {
    /// The version that the edge has; `None` requests a snapshot.
    pub have: Option<Version>,
    /// Version of the edge's software.
    pub software: String,
    /// Random, new at every start of the edge. It tells a restarted edge from a second host with the
    /// same key.
    pub boot: [u8; 16],
}

/// Edge → controller: a version is applied. The controller may send the next delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The [`Update`]'s `to`.
    pub version: Version,
}

/// Both ways: the peer answers with a [`Pong`]. A side sends it after 2 s without sending anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Returned in the answer.
    pub nonce: u64,
    /// From an edge: the version that it has applied. From a controller: the newest version for the edge.
    pub version: Option<Version>,
}

/// The answer to a [`Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    pub nonce: u64,
    /// As in [`Ping`].
    pub version: Option<Version>,
}

/// Edge → controller: the edge's status, every 10 s and, when a link changes, at most once per second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// At most [`Report::MAX_LINKS`]. If there are more, those that are down come first.
    pub links: Vec<LinkReport>,
    pub cert_not_after: u64,
    pub applied: Option<Version>,
}

impl Report {
    pub const MAX_LINKS: usize = 500;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    pub peer: Label,
    pub up: bool,
    /// Smoothed round-trip time in microseconds; 0 if unknown.
    pub rtt_us: u32,
    /// Largest UDP payload in bytes that is not fragmented; 0 if unknown.
    pub path_mtu: u16,
    /// When `up` last changed.
    pub since_unix: u64,
}

/// Edge → controller: requests a certificate for a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PKCS#10 in DER. Only its public key is used.
    pub csr: Vec<u8>,
}

/// Controller → edge: the answer to a [`RenewRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewReply {
    pub result: Result<Enrolled, CallError>,
}

/// Controller → edge: an admin has asked for a renewal now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewNow {}

/// Controller → edge: the controller ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    pub reason: GoodbyeReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GoodbyeReason {
    /// The controller stops. The edge connects to another one, or to this one later.
    Shutdown,
    Revoked,
    Removed,
    /// The edge has another session.
    Replaced,
    /// Another host with the same identity has a session, and answers. This one must not carry traffic. It may try again
    /// after a few seconds: the other may be gone.
    InUse,
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
        /// The first frame.
        Hello(EdgeHello),
        Ack(Ack),
        Ping(Ping),
        Pong(Pong),
        Report(Report),
        RenewRequest(RenewRequest),
        Problems(Problems),
    }
}

messages! {
    /// What a controller sends in an edge's session.
    pub enum ToEdge {
        Update(Update),
        Ping(Ping),
        Pong(Pong),
        RenewReply(RenewReply),
        Goodbye(Goodbye),
        RenewNow(RenewNow),
    }
}
