//! The client's side of sessions and calls against servers on loopback.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

mod admin;
mod edge;
mod enrolment;
mod misbehaviour;
mod server;
mod session_test;
