//! The controller of a cframe mesh.
//!
//! - [`model`]: what is known of the mesh; [`sessions`]: of its edges' sessions.
//! - [`decide`]: what calls change. Pure, apart from signing and random secrets, which are made first.
//! - [`mesh`]: writing to the store and following it; [`audit`]: who did what.
//! - [`serve`]: the ports, edges' sessions, enrolment, calls, HTTP and the local socket.
//! - `upkeep`: what a controller does by itself; `peers`: its questions to the other controllers.
//! - [`keys`]: issuing CAs and secrets on disk; [`backup`]: dumps of the store.
//! - [`cli`], [`config`]: the program.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

pub mod audit;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decide;
pub mod keys;
pub mod mesh;
pub mod metrics;
pub mod model;
pub mod peers;
pub mod serve;
pub mod sessions;
pub mod upkeep;

mod context;
mod rate;

pub use serve::{Parts, RunError, run};
