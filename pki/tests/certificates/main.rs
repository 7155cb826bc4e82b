//! Certificates that are issued, those that peers refuse, and the TLS handshakes that use them.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

mod crafted;
mod handshake;
mod issue;
mod tls;
mod verifier;

use std::time::Duration;

use cframe_pki::{
    identity::{Label, SpiffeId},
    issue::LEAF_LIFETIME,
    verifier::Policy,
};

/// The time at which all certificates are made, in Unix seconds.
const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const LEAF: Duration = LEAF_LIFETIME;

fn edges(namespace: &str) -> Policy {
    Policy::Edges { namespace: label(namespace), not_self: None }
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}
