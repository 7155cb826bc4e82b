//! `doctor`: what is wrong on this host, and how to fix it.
//!
//! [`gather`] reads the host's state; [`findings`] judges it, from nothing else.

mod firewall;
mod gather;
mod judge;

use std::fmt;

use serde::Serialize;

pub use firewall::ForwardPolicy;
pub use gather::{Captured, Certificate, Facts, gather};
pub use judge::findings;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub ok: bool,
    /// What was checked.
    pub check: &'static str,
    pub found: String,
    /// What to do, unless it is ok.
    pub fix: Option<String>,
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { ok: true, check, found: found.into(), fix: None }
    }

    fn bad(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { ok: false, check, found: found.into(), fix: Some(fix.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.ok { '✓' } else { '✗' };
        write!(f, "{mark} {}: {}", self.check, self.found)?;
        match &self.fix {
            Some(fix) => write!(f, "\n    → {fix}"),
            None => Ok(()),
        }
    }
}
