//! The control protocol: what controllers, edges and admins say to each other over QUIC.
//!
//! - [`frame`]: one message as bytes, and back, within bounds. Pure.
//! - [`v1`]: the messages of `cframe-control/1` and `cframe-enroll/1`. Their bytes are frozen.
//! - [`desired`]: the state that one edge needs: difference, pieces for the wire, and putting these
//!   together again. Pure.
//! - `session` (a feature, on by default): frames over QUIC streams, an edge's session with
//!   reconnecting, admin calls, enrolment, and the transport settings of both ends.
//!
//! Times are seconds since the Unix epoch unless they say otherwise.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

pub mod desired;
pub mod frame;
#[cfg(feature = "session")]
pub mod session;
pub mod v1;

/// UDP port of enrolment.
pub const ENROLL_PORT: u16 = 58421;
/// UDP port of edge sessions and admin calls.
pub const CONTROL_PORT: u16 = 58422;
/// UDP port of links between edges.
pub const LINK_PORT: u16 = 58423;
