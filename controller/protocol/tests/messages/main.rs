//! Encodings, limits and properties of messages. No network.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

mod bounds;
mod desired;
mod endpoint;
mod replies;
mod round_trip;
mod samples;
mod snapshots;
mod strategies;
