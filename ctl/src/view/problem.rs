//! Problems, in groups and one by one.

use std::fmt::Write as _;

use cframe_protocol::{
    problem::{Code, Severity},
    text::printable,
    v1::{self, ProblemExample, ProblemGroup},
};
use serde::Serialize;

use crate::{table::Tone, timestamp::Timestamp};

/// All problems with one code.
#[derive(Debug, Serialize)]
pub struct Group {
    /// An entry of doc/problems.md.
    pub code: String,
    pub severity: Severity,
    /// A heading, with the number.
    pub title: String,
    pub count: u32,
    /// At most 5.
    pub examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
pub struct Example {
    /// An edge as NAMESPACE/NAME, a controller's name, or empty.
    pub subject: String,
    /// A peer, prefix or device; may be empty.
    pub about: String,
    pub text: String,
    /// What to do; `null` if unknown.
    pub fix: Option<String>,
    /// When it started; `null` if unknown.
    pub since: Option<Timestamp>,
}

/// A problem of one edge.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// An entry of doc/problems.md.
    pub code: String,
    pub severity: Severity,
    /// A peer, prefix or device; may be empty.
    pub about: String,
    pub text: String,
    /// What to do; `null` if unknown.
    pub fix: Option<String>,
    /// When it started; `null` if unknown.
    pub since: Option<Timestamp>,
}

impl From<ProblemGroup> for Group {
    fn from(group: ProblemGroup) -> Self {
        let ProblemGroup { code, severity, title, count, examples } = group;
        let examples = examples.into_iter().map(Example::from).collect();
        Self { code: code.to_string(), severity, title, count, examples }
    }
}

impl From<ProblemExample> for Example {
    fn from(example: ProblemExample) -> Self {
        let ProblemExample { subject, about, text, fix, since_unix } = example;
        Self { subject, about, text, fix, since: since_unix.map(Timestamp) }
    }
}

impl From<v1::Problem> for Problem {
    fn from(problem: v1::Problem) -> Self {
        let v1::Problem { code, severity, about, text, fix, since_unix } = problem;
        let since = Some(since_unix).filter(|since| *since > 0).map(Timestamp);
        Self { code: code.to_string(), severity, about, text, fix, since }
    }
}

impl Problem {
    /// `edge` has reported it, or is one end of the link that it is about.
    pub(super) fn write(&self, text: &mut String, edge: &str, color: bool) {
        line(text, heading(self.severity, color), &self.text, &self.code);
        fix(text, "  ", &self.code, edge, self.fix.as_ref());
    }
}

impl Group {
    /// One problem takes a line and one for its fix; so do any number of problems that are said in the same words.
    pub(super) fn write(&self, text: &mut String, color: bool) {
        let heading = heading(self.severity, color);
        match self.examples.as_slice() {
            [only] if self.count == 1 => {
                line(text, heading, &only.text, &self.code);
                fix(text, "  ", &self.code, &only.subject, only.fix.as_ref());
            }
            [first, ..] if self.is_uniform() => {
                let names: Vec<&str> = self.names();
                let more = if self.count as usize > names.len() { ", …" } else { "" };
                let names = format!("{}: {}{more}", self.title, names.join(", "));
                line(text, heading, &names, &self.code);
                fix(text, "  ", &self.code, &first.subject, first.fix.as_ref());
            }
            examples => {
                line(text, heading, &self.title, &self.code);
                for example in examples {
                    let Example { subject, text: sentence, .. } = example;
                    let named = subject.is_empty() || sentence.contains(subject.as_str());
                    let place = if named { String::new() } else { format!("{subject}: ") };
                    // Writing to a string does not fail.
                    let _ = writeln!(text, "  {}", printable(&format!("{place}{sentence}")));
                    fix(text, "    ", &self.code, &example.subject, example.fix.as_ref());
                }
                let more = (self.count as usize).saturating_sub(examples.len());
                if more > 0 {
                    let _ = writeln!(text, "  … and {more} more");
                }
            }
        }
    }

    /// Whether the examples differ in nothing but where they are.
    fn is_uniform(&self) -> bool {
        let mut rests = self.examples.iter().map(|example| {
            let named = !example.subject.is_empty() && example.about.is_empty();
            named.then(|| example.text.replace(&example.subject, ""))
        });
        let first = rests.next().flatten();
        first.is_some() && rests.all(|rest| rest == first)
    }

    /// Where the examples are, without the namespace if it is the same for all.
    fn names(&self) -> Vec<&str> {
        let namespace = |example: &Example| {
            example.subject.split_once('/').map(|(namespace, _)| namespace.len() + 1)
        };
        let prefix = |example: &Example| {
            namespace(example).map(|length| example.subject[..length].to_owned())
        };
        let first = self.examples.first().and_then(prefix);
        let shared =
            first.is_some() && self.examples.iter().all(|example| prefix(example) == first);
        let start = |example: &Example| namespace(example).filter(|_| shared).unwrap_or(0);
        self.examples.iter().map(|example| &example.subject[start(example)..]).collect()
    }
}

fn heading(severity: Severity, color: bool) -> String {
    let tone = match severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Warning,
    };
    tone.paint_if(color, &severity.to_string())
}

fn line(text: &mut String, heading: String, sentence: &str, code: &str) {
    let _ = writeln!(text, "{heading}: {} [{}]", printable(sentence), printable(code));
}

/// The fix of a problem that `subject` has. What an edge's host says is not for the shell of the one who reads it.
fn fix(text: &mut String, indent: &str, code: &str, subject: &str, fix: Option<&String>) {
    let Some(fix) = fix else { return };
    let is_of_host = code.parse().map_or(true, Code::is_of_host) && !subject.is_empty();
    let place = if is_of_host { format!(" on {}", printable(subject)) } else { String::new() };
    let _ = writeln!(text, "{indent}fix{place}: {}", printable(fix));
}
