//! The controller of a cframe mesh: the store and what may be written to it, enrolment, the edges' sessions
//! with the state they are to have, and admin calls.
//!
//! - [`record`], [`model`]: what is stored, and the same in memory with its indexes.
//! - [`check`], [`draft`], [`calls`]: what a write is checked for, and the decision as a transaction. Pure.
//! - [`mesh`]: the one way to write, and what follows from a change.
//! - [`audit`]: who did what.
//! - [`feed`], [`session`]: the difference to the newest state, encoded once and sent to each edge when it is ready.
//! - [`registration`], [`presence`], [`peers`]: the mesh's controllers, which of them run, and asking them.
//! - [`authorities`]: the issuing CAs on disk.
//! - [`enroll`], [`issuing`], [`roles`], [`admission`]: who gets in, as what, and how often.
//! - [`server`]: all of it behind [`run`], with its I/O as arguments.
//! - [`backup`], [`local`]: dumps, and asking a running controller for one.
//! - [`cli`], [`config`]: the program.

#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

pub mod admission;
pub mod audit;
pub mod authorities;
pub mod backup;
pub mod calls;
pub mod check;
pub mod cli;
pub mod config;
pub mod draft;
pub mod enroll;
pub mod feed;
pub mod issuing;
pub mod local;
pub mod mesh;
pub mod metrics;
pub mod model;
pub mod peers;
pub mod presence;
pub mod record;
pub mod registration;
pub mod roles;
pub mod server;
pub mod session;

mod expiry;
mod http;
mod reset;
mod rotation;
mod upkeep;

pub use reset::ResetSecret;
pub use server::{Parts, RunError, run};
