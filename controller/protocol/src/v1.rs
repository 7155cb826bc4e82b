//! The messages of version 1. Their bytes are frozen: variants and fields are never moved, removed or
//! changed. Additions are new message types, which older peers skip.
//!
//! | type | message | from → to |
//! | ---: | --- | --- |
//! | 1 | [`EdgeHello`] | edge → controller |
//! | 2 | [`Update`] | controller → edge |
//! | 3 | [`Ack`] | edge → controller |
//! | 4, 5 | [`Ping`], [`Pong`] | both ways |
//! | 6 | [`Report`] | edge → controller |
//! | 7, 8 | [`RenewRequest`], [`RenewReply`] | edge → controller → edge |
//! | 9 | [`Goodbye`] | controller → edge |
//! | 10 | [`RenewNow`] | controller → edge |
//! | 11 | [`Problems`] | edge → controller |
//! | 20, 21 | [`EnrollRequest`], [`EnrollReply`] | joining edge → controller → edge |
//! | 40, 41 | [`AdminRequest`], [`AdminReply`] | admin or controller → controller → back |
//!
//! Bodies are bincode 2 with `config::standard()`: varints; the number of an enum's variant; length and
//! elements of a list; length and UTF-8 of a string. Times are Unix seconds unless stated otherwise.

mod admin;
mod audit;
mod ca;
mod desired;
mod edge;
mod endpoint;
mod enroll;
mod error;
mod problem;
mod reply;
mod rows;
mod version;

pub use admin::{AdminRequest, Call};
pub use audit::{AuditQuery, AuditRow};
pub use ca::{CaStatus, CertCounts, HolderRow, IssuerRow, Lacking, RootRow};
pub use desired::{Change, Congestion, Desired, EdgeState, Settings, Update};
pub use edge::{
    Ack, EdgeHello, FromEdge, Goodbye, GoodbyeReason, LinkReport, Ping, Pong, RenewNow, RenewReply,
    RenewRequest, Report, ToEdge,
};
pub use endpoint::{Endpoint, EndpointError};
pub use enroll::{EnrollReply, EnrollRequest, Enrolled};
pub use error::{CallError, ErrorCode};
pub use problem::{Problem, Problems};
pub use reply::{AdminEnrolled, AdminReply, Behind, Changed, Progress, Reply, TokenMade};
pub use rows::{
    AdminRow, CertRow, CertState, ControllerRow, EdgeLiveness, EdgeRow, MeshStatus, NamespaceRow,
    NamespaceStatus, ProblemExample, ProblemGroup, RegistrationRow, Rival, RouteRow, Running,
    SessionDetail, SessionRow, TokenRow,
};
pub use version::{ParseVersionError, Version};

/// As in the ALPN `cframe-control/1`.
pub const PROTOCOL: u16 = 1;
