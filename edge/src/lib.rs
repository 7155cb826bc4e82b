//! The gateway of a cframe mesh: one process at the border of one site.
//!
//! - [`host`]: the system around the core, which is TUN, socket, netlink, kernel settings, and the
//!   thread that moves packets.
//! - [`process`]: everything else in one task, which is the session with a controller, the desired
//!   state, names, and the certificate's renewal.
//! - [`local`], [`status`], [`doctor`]: what the edge reports on its own host.
//! - [`cli`]: the program.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

pub mod cli;
pub mod config;
pub mod doctor;
pub mod host;
pub mod instance;
pub mod judge;
pub mod local;
pub mod notify;
pub mod problem;
pub mod process;
pub mod snapshot;
pub mod state;
pub mod status;

mod metrics;
mod sys;
