//! The control protocol of controllers, edges and admins over QUIC.
//!
//! - [`frame`]: encoding and decoding of frames, with limits. Pure.
//! - [`v1`]: the messages of `cframe-control/1` and `cframe-enroll/1`.
//! - [`desired`]: an edge's desired state: deltas, cutting them into updates, assembling updates. Pure.
//! - [`natural`]: the order of names for people.
//! - [`problem`]: the catalogue of problems that edges and controllers report.
//! - [`reserved`]: addresses of clouds' own services, which are never routed into a mesh.
//! - [`text`]: text of other hosts, made safe for a terminal.
//! - `session` (a feature, on by default): frames over QUIC streams, an edge's session, admin calls,
//!   enrolment, and the QUIC settings of both ends.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

pub mod desired;
pub mod frame;
pub mod natural;
pub mod problem;
pub mod reserved;
#[cfg(feature = "session")]
pub mod session;
pub mod text;
pub mod v1;

/// UDP port of enrolment.
pub const ENROLL_PORT: u16 = 58421;
/// UDP port of edge sessions and admin calls.
pub const CONTROL_PORT: u16 = 58422;
/// UDP port of links between edges.
pub const LINK_PORT: u16 = 58423;
