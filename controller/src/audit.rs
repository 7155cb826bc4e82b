//! The audit log: who did what, when, from where, what it changed, and how it ended.
//!
//! A record is a key of the store, outside of what controllers keep in memory and edges are told of:
//!
//! ```text
//! /cframe/audit/<Unix milliseconds, 13 digits>-<controller>-<number>
//! ```
//! The value is JSON ([`Record`]), readable with `etcdctl`. Keys sort by time, which is the clock of the
//! controller that was asked.
//!
//! What changes the store has its record in the same transaction: there is no change without one, and no
//! record of a change that did not happen. What was refused, rehearsed, or only hands something out is
//! written by itself, a moment later and at a bounded rate ([`journal`]). Calls that only look leave no record
//! unless they are not allowed.
//!
//! - [`act`]: what is being done, before it is known how it ends.
//! - [`record`]: what is kept of it; [`change`]: the difference, from the state that was decided upon.
//! - [`journal`]: the records that go by themselves; `trim`: the bounds of all of them.
//! - [`query`]: reading them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub mod act;
pub mod change;
pub mod journal;
pub mod query;
pub mod record;
pub(crate) mod trim;

mod text;

pub use act::{Act, Who};
pub use change::Change;
pub use journal::Journal;
pub use record::Record;

/// All keys of records begin with this.
pub const ROOT: &str = "/cframe/audit/";
/// The first text after all of them.
pub(crate) const END: &str = "/cframe/audit0";

/// How many records are kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub records: usize,
    /// None that is older.
    pub age: Duration,
}

impl Keep {
    /// The fewest records that may be asked for: less would not hold one bad day.
    pub const FEWEST: usize = 100;
}

impl Default for Keep {
    fn default() -> Self {
        Self { records: 10_000, age: Duration::from_secs(365 * 86_400) }
    }
}

/// The first key of a moment, in Unix milliseconds.
pub(crate) fn key_at(millis: u64) -> String {
    format!("{ROOT}{:013}", millis.min(9_999_999_999_999))
}

/// Unix milliseconds of a clock that gives seconds: the system's milliseconds, put forward by as much as
/// that clock is ahead of the system's.
pub(crate) fn millis(seconds: u64) -> u64 {
    let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // They were read one after the other: a second's difference is none.
    if seconds.abs_diff(system.as_secs()) <= 1 {
        return u64::try_from(system.as_millis()).unwrap_or(u64::MAX);
    }
    seconds.saturating_mul(1000).saturating_add(u64::from(system.subsec_millis()))
}
