//! The audit log: who did what, when, from where, what it changed, and how it ended.
//!
//! A record is a key of the store, which controllers neither load nor send to edges:
//!
//! ```text
//! /cframe/audit/<Unix milliseconds, 13 digits>-<controller>-<number>
//! ```
//! The value is JSON ([`AuditRecord`]), readable with `etcdctl`. Keys sort by time, by the clock of the controller
//! that got the call.
//!
//! An act that changes the store has its record in the same transaction: there is no change without a record, and no
//! record of a change that did not happen. What failed, was a dry run, or only handed something out has a record of
//! its own, written a moment later and at a limited rate ([`Journal`]). Calls that only read leave a record only if
//! they are not allowed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

mod act;
pub mod change;
mod journal;
mod limit;
pub(crate) mod record;
mod text;

pub use act::{Act, Who};
pub use change::Change;
pub use journal::Journal;
pub(crate) use limit::Kind;
pub use record::AuditRecord;

/// All keys of records start with this.
pub const ROOT: &str = "/cframe/audit/";
/// The first text after all of them.
pub(crate) const END: &str = "/cframe/audit0";

/// How long records are kept. Both limits apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The newest ones.
    pub records: usize,
    pub age: Duration,
}

impl Retention {
    /// Fewer would not cover one bad day.
    pub const MIN_RECORDS: usize = 100;
}

impl Default for Retention {
    fn default() -> Self {
        Self { records: 10_000, age: Duration::from_secs(365 * 86_400) }
    }
}

/// The first key at a time in Unix milliseconds.
pub(crate) fn key_at(millis: u64) -> String {
    format!("{ROOT}{:013}", millis.min(9_999_999_999_999))
}

/// Unix milliseconds, from a clock that counts seconds and from the milliseconds of the system's clock.
pub(crate) fn millis(seconds: u64) -> u64 {
    let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The two were read one after the other, so they may differ by a second.
    if seconds.abs_diff(system.as_secs()) <= 1 {
        return u64::try_from(system.as_millis()).unwrap_or(u64::MAX);
    }
    seconds.saturating_mul(1000).saturating_add(u64::from(system.subsec_millis()))
}
