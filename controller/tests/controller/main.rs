//! Tests of the controller from outside: over QUIC on the loopback with real certificates, in this process and as the real
//! program.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests may")]

mod admins;
mod attacks;
mod audit;
mod authorities;
mod enrolment;
#[cfg(feature = "etcd")]
mod etcd;
mod every_call;
mod half_open;
mod joining;
mod membership;
mod problems;
mod program;
mod races;
mod reserved;
mod revocation;
mod rotation;
mod several;
mod slow;
mod state;
mod support;
mod upgrade;
mod writers;
