//! The client's side against servers on the loopback, with certificates of a CA of its own.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

mod admin;
mod edge;
mod enrolment;
mod misbehaviour;
mod server;
mod world;
