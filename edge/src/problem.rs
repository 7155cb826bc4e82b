//! What is wrong with this edge: the types in which every check answers.
//!
//! A check looks at facts that were measured and answers with a [`Check`]. `judge` makes all of them, in
//! one place; `doctor`, `status`, metrics, the log and the controllers show its problems.

mod report;

use cframe_protocol::problem::{Code, Severity};
use serde::{Deserialize, Serialize};

pub use report::{CheckStatus, Report};

/// Something that is wrong now. The code and what it is about identify it while it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: Code,
    /// A peer, prefix or device; empty if it is about the edge as a whole.
    pub about: String,
    /// One sentence with what was seen and, if it is known, the cause.
    pub text: String,
    /// A command that ends it when it is pasted into a root shell on this host, or else what to do.
    pub fix: Option<String>,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked, in one or two words.
    pub what: &'static str,
    /// What was found to be right, or the problems.
    pub result: Result<String, Vec<Problem>>,
}

/// A problem as `status` and `doctor` show it. The JSON is stable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemStatus {
    pub code: String,
    /// `warning` or `error`.
    pub severity: String,
    pub about: String,
    pub text: String,
    pub fix: Option<String>,
    /// When it started, in Unix seconds.
    pub since: u64,
}

impl Problem {
    pub fn new(code: Code, about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { code, about: about.into(), text: text.into(), fix: None }
    }

    #[must_use]
    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    pub fn severity(&self) -> Severity {
        self.code.severity()
    }
}

impl Check {
    pub fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, result: Ok(found.into()) }
    }

    pub fn bad(what: &'static str, problem: Problem) -> Self {
        Self { what, result: Err(vec![problem]) }
    }

    /// The problems that checks found.
    pub fn problems(checks: &[Self]) -> Vec<Problem> {
        checks.iter().filter_map(|check| check.result.as_ref().err()).flatten().cloned().collect()
    }

    /// Good with this text if there are no problems.
    pub fn of(what: &'static str, problems: Vec<Problem>, good: impl Into<String>) -> Self {
        let result = if problems.is_empty() { Ok(good.into()) } else { Err(problems) };
        Self { what, result }
    }
}

impl ProblemStatus {
    /// `since` is in Unix seconds.
    pub fn new(problem: &Problem, since: u64) -> Self {
        Self {
            code: problem.code.to_string(),
            severity: problem.severity().to_string(),
            about: problem.about.clone(),
            text: problem.text.clone(),
            fix: problem.fix.clone(),
            since,
        }
    }

    /// One line, and one for the fix.
    pub fn render(&self) -> String {
        let mark = if self.severity == Severity::Error.to_string() { '✗' } else { '!' };
        let said = self.text.starts_with(&self.about);
        let about = if said { String::new() } else { format!(" {}", self.about) };
        let mut out = format!("{mark} {}{about}: {}\n", self.code, self.text);
        if let Some(fix) = &self.fix {
            out.push_str(&format!("    → {fix}\n"));
        }
        out
    }
}
