//! The gateway of a cframe mesh: one process at the border of one site.
//!
//! - [`host`] is the machine around the core: TUN, socket, netlink, kernel settings, and the thread
//!   that moves packets.
//! - [`control`] is the rest of the process, one task: the session with a controller, desired state
//!   on its way to the core and the kernel, names, renewal.
//! - [`local`], [`status`], [`doctor`]: what the edge says of itself on its own host.
//! - [`cli`]: the program.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod host;
pub mod instance;
pub mod local;
pub mod notify;
pub mod snapshot;
pub mod state;
pub mod status;

mod metrics;
mod sys;

pub use control::run;
