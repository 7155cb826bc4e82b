//! `doctor`: what is wrong on this host, and how to mend it.
//!
//! [`gather`] looks, [`verdicts`] judges, and judges only by what was gathered.

mod firewall;
mod gather;
mod judge;

use std::fmt;

use serde::Serialize;

pub use firewall::ForwardPolicy;
pub use gather::{Captured, Certificate, Facts, gather};
pub use judge::verdicts;

/// One line of the doctor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was looked at.
    pub check: &'static str,
    /// What was found.
    pub found: String,
    /// What to do, if it isn't.
    pub mend: Option<String>,
}

impl Verdict {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { ok: true, check, found: found.into(), mend: None }
    }

    fn bad(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { ok: false, check, found: found.into(), mend: Some(mend.into()) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.ok { '✓' } else { '✗' };
        write!(f, "{mark} {}: {}", self.check, self.found)?;
        match &self.mend {
            Some(mend) => write!(f, "\n    → {mend}"),
            None => Ok(()),
        }
    }
}
