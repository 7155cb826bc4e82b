//! What tests of hosts share: problems as the programs report them, fixes pasted into a shell, and what is
//! checked throughout a test: that the status is true, and that nothing leaves in the clear.

mod clear;
mod probes;
mod verdict;

use std::time::{Duration, Instant};

use cframe_testbed::Host;
use cframe_testbed::deployment::{Deployment, Edge, Operator};
use serde_json::Value;

pub(crate) use clear::Clear;
pub(crate) use probes::Probes;
pub(crate) use verdict::Verdict;

use crate::lab::{figure, wait_for};

/// A fault is shown this soon, and so is its end.
pub(crate) const SHOWN: Duration = Duration::from_secs(10);
/// A pasted fix has ended its problem.
pub(crate) const FIXED: Duration = Duration::from_secs(5);
/// The exit code of `cfctl status` and `cframe-edge doctor` if traffic that should pass does not.
pub(crate) const UNHEALTHY: i32 = 7;

/// The problems in an edge's status; none if it does not run.
pub(crate) fn problems(edge: &Edge) -> Vec<Value> {
    edge.status().map(|status| list(&status["problems"])).unwrap_or_default()
}

/// The first problem of this code in an edge's status.
pub(crate) fn problem(edge: &Edge, code: &str) -> Option<Value> {
    problems(edge).into_iter().find(|problem| problem["code"] == code)
}

/// Waits until an edge's status has a problem of this code that is about `about`; an empty text is any.
pub(crate) fn wait_edge_problem(edge: &Edge, code: &str, about: &str) -> Value {
    let mut found = None;
    let waited = wait_for(SHOWN, || {
        found = problems(edge).into_iter().find(|problem| concerns(problem, code, about));
        found.is_some()
    });
    let Ok(took) = waited else {
        panic!("no {code} about {about:?} at {}: {:#?}", edge.name(), problems(edge));
    };
    figure(&format!("{code} at {}", edge.name()), format_args!("{took:.1?} (bound {SHOWN:?})"));
    found.unwrap()
}

/// Waits until an edge's status has no problem of this code.
pub(crate) fn wait_edge_problem_ends(edge: &Edge, code: &str, within: Duration) {
    let waited = wait_for(within, || edge.status().is_ok() && problem(edge, code).is_none());
    assert!(waited.is_ok(), "{code} stays for {within:?}: {:#?}", problem(edge, code));
    figure(&format!("end of {code} at {}", edge.name()), format_args!("{:.1?}", waited.unwrap()));
}

/// `cframe-edge doctor`: its exit code and its JSON.
pub(crate) fn doctor(edge: &Edge) -> (i32, Value) {
    let output = edge.run(&["doctor", "-o", "json"]).unwrap();
    (output.code, output.json().unwrap())
}

/// `cfctl status`: its exit code and its JSON.
#[derive(Clone, Debug)]
pub(crate) struct MeshStatus {
    pub(crate) code: i32,
    pub(crate) json: Value,
}

impl MeshStatus {
    pub(crate) fn read(operator: &Operator) -> anyhow::Result<Self> {
        let (code, json) = operator.json(&["status"])?;
        Ok(Self { code, json })
    }

    /// The examples of all problems, each with its `code` and `severity`.
    pub(crate) fn problems(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for group in list(&self.json["problems"]) {
            for mut example in list(&group["examples"]) {
                example["code"] = group["code"].clone();
                example["severity"] = group["severity"].clone();
                all.push(example);
            }
        }
        all
    }
}

/// Waits until `cfctl status` exits with 7, or with 0 for a warning, and has a problem of this code whose subject
/// (`prod/aws-hk`) or `about` is `whom`; an empty text is any.
pub(crate) fn wait_problem(
    deployment: &Deployment,
    code: &str,
    whom: &str,
    within: Duration,
) -> Value {
    wait_problem_with(deployment, code, whom, &[], within)
}

/// Like [`wait_problem`], for one with these words in its text.
pub(crate) fn wait_problem_with(
    deployment: &Deployment,
    code: &str,
    whom: &str,
    words: &[&str],
    within: Duration,
) -> Value {
    let operator = deployment.operator();
    let mut found = None;
    let waited = wait_for(within, || {
        let Ok(status) = MeshStatus::read(&operator) else { return false };
        let says = |problem: &Value| {
            let text = problem["text"].as_str().unwrap_or_default();
            words.iter().all(|word| text.contains(word))
        };
        let mut all = status.problems().into_iter();
        found = all.find(|problem| concerns(problem, code, whom) && says(problem));
        let unhealthy = status.code == UNHEALTHY;
        found.as_ref().is_some_and(|found| found["severity"] != "error" || unhealthy)
    });
    let Ok(took) = waited else {
        panic!(
            "no {code} about {whom:?} with {words:?} within {within:?}: {:#?}",
            MeshStatus::read(&operator)
        );
    };
    figure(
        &format!("{code} {words:?} at cfctl status"),
        format_args!("{took:.1?} (bound {within:?})"),
    );
    found.unwrap()
}

/// Waits until `cfctl status` exits with 0.
pub(crate) fn wait_healthy(deployment: &Deployment, within: Duration) -> Duration {
    let operator = deployment.operator();
    let start = Instant::now();
    let healthy = || MeshStatus::read(&operator).is_ok_and(|status| status.code == 0);
    let Ok(took) = wait_for(within, healthy) else {
        panic!("not healthy after {:?}: {:#?}", start.elapsed(), MeshStatus::read(&operator));
    };
    figure("healthy at cfctl status", format_args!("{took:.1?} (bound {within:?})"));
    took
}

/// Pastes a problem's fix into a root shell on a host.
pub(crate) fn paste_fix(host: &Host, problem: &Value) {
    let fix = fix_of(problem);
    let mut shell = host.command("sh");
    shell.args(["-c", fix]);
    let output = shell.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the fix of {problem:#} fails: {stderr}");
}

/// Pastes a problem's fix into a root shell on an edge's host, where `cframe-edge` is found.
pub(crate) fn paste_fix_at(edge: &Edge, problem: &Value) {
    let output = edge.shell(fix_of(problem)).unwrap();
    assert!(output.code == 0, "the fix of {problem:#} fails: {output}");
}

pub(crate) fn fix_of(problem: &Value) -> &str {
    problem["fix"].as_str().unwrap_or_else(|| panic!("no fix: {problem:#}"))
}

fn concerns(problem: &Value, code: &str, whom: &str) -> bool {
    let is_about = |key: &str| problem[key].as_str().is_some_and(|text| text == whom);
    problem["code"] == code && (whom.is_empty() || is_about("about") || is_about("subject"))
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}
