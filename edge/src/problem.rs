//! What is wrong with this edge: the types in which every check answers.
//!
//! A check looks at facts that were measured and answers with a [`Check`]. `judge` makes all of them, in
//! one place; `doctor`, `status`, metrics, the log and the controllers show its problems.

mod report;

use cframe_protocol::{
    problem::{Code, Severity},
    text::{cut, printable},
    v1,
};
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

    /// With this fix if there is one.
    #[must_use]
    pub fn fix_if(self, fix: Option<String>) -> Self {
        Self { fix, ..self }
    }

    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// Without characters that control a terminal, and of bounded length: parts of it come from peers, and from whoever
    /// names processes, devices and rules of this host. A fix that would have to be changed for that is left out, since
    /// the changed command would do something else.
    fn made_safe(self) -> Self {
        let Self { code, about, text, fix } = self;
        let mut text = printable(&text).into_owned();
        if text.len() > v1::Problem::MAX_TEXT {
            text = format!("{}…", cut(&text, v1::Problem::MAX_TEXT - '…'.len_utf8()));
        }
        let is_safe = |fix: &String| fix.len() <= v1::Problem::MAX_TEXT && printable(fix) == *fix;
        let fix = fix.map(|fix| fix.trim_end().to_owned()).filter(is_safe);
        Self { code, about: printable(&about).into_owned(), text, fix }
    }
}

impl Check {
    pub fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, result: Ok(printable(&found.into()).into_owned()) }
    }

    pub fn bad(what: &'static str, problem: Problem) -> Self {
        Self::of(what, vec![problem], "")
    }

    /// The problems that checks found.
    pub fn problems(checks: &[Self]) -> Vec<Problem> {
        checks.iter().filter_map(|check| check.result.as_ref().err()).flatten().cloned().collect()
    }

    /// Good with this text if there are no problems.
    pub fn of(what: &'static str, problems: Vec<Problem>, good: impl Into<String>) -> Self {
        if problems.is_empty() {
            return Self::good(what, good);
        }
        Self { what, result: Err(problems.into_iter().map(Problem::made_safe).collect()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(problem: Problem) -> (Problem, String) {
        let [problem]: [Problem; 1] =
            Check::problems(&[Check::bad("links", problem)]).try_into().unwrap();
        let line = ProblemStatus::new(&problem, 0).render();
        (problem, line)
    }

    #[test]
    fn what_strangers_say_does_not_control_the_terminal() {
        let text = "refused: \u{1b}]0;owned\u{7} \u{202e}txt\r";
        let problem = Problem::new(Code::LinkDown, "idc\u{9b}2J", text).fix("a\u{1b}[2J; b");
        let (problem, line) = shown(problem);
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
        assert!(!line.contains('\u{202e}') && line.contains("]0;owned"), "{line:?}");
        assert_eq!(problem.fix, None, "what is left of the command would be another one");
        let good = Check::good("links", "by \u{1b}[2J");
        assert_eq!(good.result.unwrap(), "by \u{fffd}[2J");
    }

    #[test]
    fn a_long_text_is_cut_and_a_long_command_is_left_out() {
        let problem = Problem::new(Code::LinkDown, "", "é".repeat(600)).fix("x".repeat(600));
        let (problem, _) = shown(problem);
        assert!(problem.text.len() <= v1::Problem::MAX_TEXT && problem.text.ends_with('…'));
        assert_eq!(problem.fix, None);
        let (problem, _) = shown(Problem::new(Code::LinkDown, "", "down").fix("ip link set up\n"));
        assert_eq!(problem.fix.as_deref(), Some("ip link set up"));
    }
}
