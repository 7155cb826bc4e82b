//! What `doctor` shows: all checks, and the problems with their fixes.

use std::fmt::Write as _;

use cframe_protocol::problem::Severity;
use serde::{Deserialize, Serialize};

use super::{Check, Problem, ProblemStatus};

/// What `doctor` shows. The JSON is stable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// No problem keeps traffic from passing.
    pub ok: bool,
    pub checks: Vec<CheckStatus>,
    pub problems: Vec<ProblemStatus>,
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// What was checked.
    pub check: String,
    pub ok: bool,
    /// What was found, if it is right. Otherwise `problems` says it.
    pub found: Option<String>,
}

impl Report {
    /// `status` gives the time since which a problem is known.
    pub fn new(checks: &[Check], status: impl Fn(&Problem) -> ProblemStatus) -> Self {
        let problems: Vec<ProblemStatus> = Check::problems(checks).iter().map(status).collect();
        let error = Severity::Error.to_string();
        let row = |check: &Check| CheckStatus {
            check: check.what.to_owned(),
            ok: check.result.is_ok(),
            found: check.result.as_ref().ok().cloned(),
        };
        Self {
            ok: !problems.iter().any(|problem| problem.severity == error),
            checks: checks.iter().map(row).collect(),
            problems,
        }
    }

    /// A line for each check that is right, then the problems with their fixes.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for CheckStatus { check, found, .. } in &self.checks {
            if let Some(found) = found {
                // Writing to a string cannot fail.
                let _ = writeln!(out, "✓ {check}: {found}");
            }
        }
        for problem in &self.problems {
            out.push_str(&problem.render());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use cframe_protocol::problem::Code;

    use super::*;

    #[test]
    fn a_warning_alone_is_ok_and_an_error_is_not() {
        let status = |problem: &Problem| ProblemStatus::new(problem, 5);
        let report = |code| {
            let problem = Problem::new(code, "idc", "something is wrong").fix("do this");
            Report::new(&[Check::good("clock", "right"), Check::bad("x", problem)], status)
        };
        assert!(report(Code::NoController).ok);
        let bad = report(Code::LinkDown);
        assert!(!bad.ok);
        assert_eq!(
            bad.render(),
            "✓ clock: right\n✗ link-down idc: something is wrong\n    → do this\n"
        );
        assert!(report(Code::NoController).render().contains("! no-controller idc"));
        let problem = Problem::new(Code::LinkDown, "idc", "idc is down");
        assert_eq!(ProblemStatus::new(&problem, 5).render(), "✗ link-down: idc is down\n");
    }
}
