//! The problems that last: since when, what the log has of them, and what the controller knows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cframe_protocol::{
    problem::{Code, Severity},
    text::cut,
    v1,
};
use tracing::{error, info, warn};

use crate::problem::{Problem, ProblemStatus};

/// The least time between two reports to the controller.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A problem that comes back this soon is logged once more at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Problems of one code that a report has before all others have their places: there is one of a link for each peer.
const MAX_OF_CODE: usize = 8;
/// Ends of problems that are remembered, so that one that comes and goes does not fill the log.
const MAX_ENDED: usize = 256;

#[derive(Debug, Default)]
pub(in crate::process) struct Ledger {
    open: BTreeMap<Key, Open>,
    /// When a problem of this key was last logged.
    logged: BTreeMap<Key, Instant>,
    /// Whether something has changed since the last report.
    changed: bool,
    reported: Option<Instant>,
}

/// Sorted by severity, the worst first; those of the host before those of links, which controllers see from the other
/// end too; then by code and by what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    severity: std::cmp::Reverse<Severity>,
    is_of_link: bool,
    code: Code,
    about: String,
}

#[derive(Debug)]
struct Open {
    problem: Problem,
    /// In Unix seconds.
    since: u64,
    /// Whether its start is in the log: then its end is, too.
    logged: bool,
}

impl Ledger {
    /// Replaces the problems that last by these. `clock` is in Unix seconds.
    pub(in crate::process) fn update(&mut self, found: Vec<Problem>, clock: u64, now: Instant) {
        let mut before = std::mem::take(&mut self.open);
        for problem in found {
            let key = Key::of(&problem);
            let open = match before.remove(&key) {
                Some(open) => {
                    self.changed |= open.problem != problem;
                    Open { problem, ..open }
                }
                None => {
                    self.changed = true;
                    let logged = self.may_log(&key, now);
                    if logged {
                        log_start(&problem);
                    }
                    Open { problem, since: clock, logged }
                }
            };
            self.open.insert(key, open);
        }
        self.changed |= !before.is_empty();
        for (key, open) in before {
            if open.logged {
                let secs = clock.saturating_sub(open.since);
                info!(code = %key.code, about = key.about, secs, "problem over");
            }
        }
    }

    fn may_log(&mut self, key: &Key, now: Instant) -> bool {
        if self.logged.get(key).is_some_and(|at| now.duration_since(*at) < LOG_INTERVAL) {
            return false;
        }
        if self.logged.len() >= MAX_ENDED {
            self.logged.retain(|_, at| now.duration_since(*at) < LOG_INTERVAL);
        }
        self.logged.insert(key.clone(), now);
        true
    }

    /// The problems, if the controller does not have them and a report may be sent now.
    pub(in crate::process) fn take_report(&mut self, now: Instant) -> Option<v1::Problems> {
        let waits = self.reported.is_some_and(|at| now.duration_since(at) < REPORT_INTERVAL);
        if !self.changed || waits {
            return None;
        }
        (self.changed, self.reported) = (false, Some(now));
        let problems = self.chosen().into_iter().map(report).collect();
        let more = self.open.len().saturating_sub(v1::Problems::MAX);
        Some(v1::Problems { problems, more: u32::try_from(more).unwrap_or(u32::MAX) })
    }

    /// As many problems as a report has, the worst first. The first of each code go before more of one code.
    fn chosen(&self) -> Vec<&Open> {
        let mut counts: BTreeMap<Code, usize> = BTreeMap::new();
        let all = self.open.iter().enumerate().map(|(place, (key, open))| {
            let count = counts.entry(key.code).or_default();
            *count += 1;
            (*count > MAX_OF_CODE, place, open)
        });
        let mut chosen: Vec<(bool, usize, &Open)> = all.collect();
        chosen.sort_by_key(|(is_more, place, _)| (*is_more, *place));
        chosen.truncate(v1::Problems::MAX);
        chosen.sort_by_key(|(_, place, _)| *place);
        chosen.into_iter().map(|(_, _, open)| open).collect()
    }

    /// All problems, the worst first.
    pub(in crate::process) fn statuses(&self) -> Vec<ProblemStatus> {
        self.open.values().map(|open| ProblemStatus::new(&open.problem, open.since)).collect()
    }

    /// One problem, with since when it lasts.
    pub(in crate::process) fn status(&self, problem: &Problem) -> ProblemStatus {
        let open = self.open.get(&Key::of(problem));
        ProblemStatus::new(problem, open.map_or(0, |open| open.since))
    }
}

impl Key {
    fn of(problem: &Problem) -> Self {
        let severity = std::cmp::Reverse(problem.severity());
        let is_of_link = !problem.code.is_of_host();
        Self { severity, is_of_link, code: problem.code, about: problem.about.clone() }
    }
}

fn report(open: &Open) -> v1::Problem {
    let Open { problem, since, .. } = open;
    v1::Problem {
        code: problem.code.into(),
        severity: problem.severity(),
        about: cut(&problem.about, v1::Problem::MAX_ABOUT).to_owned(),
        text: problem.text.clone(),
        fix: problem.fix.clone(),
        since_unix: *since,
    }
}

fn log_start(problem: &Problem) {
    let Problem { code, about, text, fix } = problem;
    match problem.severity() {
        Severity::Error => error!(%code, about, fix, "problem: {text}"),
        Severity::Warning => warn!(%code, about, fix, "problem: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(peer: &str) -> Problem {
        Problem::new(Code::LinkDown, peer, "no answer")
    }

    #[test]
    fn a_problem_lasts_from_when_it_was_first_found_and_is_reported_when_it_changes() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        assert_eq!(ledger.take_report(start), None, "nothing was wrong, nothing is said");
        ledger.update(vec![down("idc")], 100, start);
        let report = ledger.take_report(start).unwrap();
        assert_eq!((report.problems[0].since_unix, report.more), (100, 0));
        ledger.update(vec![down("idc")], 110, start + 2 * REPORT_INTERVAL);
        assert_eq!(ledger.take_report(start + 2 * REPORT_INTERVAL), None);
        let changed = Problem { text: "refused".to_owned(), ..down("idc") };
        ledger.update(vec![changed], 120, start);
        assert_eq!(ledger.take_report(start), None, "too soon");
        let report = ledger.take_report(start + REPORT_INTERVAL).unwrap();
        assert_eq!((report.problems[0].since_unix, &*report.problems[0].text), (100, "refused"));
        ledger.update(Vec::new(), 130, start);
        let report = ledger.take_report(start + 3 * REPORT_INTERVAL).unwrap();
        assert_eq!(report.problems, []);
    }

    #[test]
    fn the_worst_come_first_and_a_report_is_bounded() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let mut found: Vec<Problem> = (0..100).map(|n| down(&format!("edge-{n}"))).collect();
        found.insert(0, Problem::new(Code::NoController, "", "no answer"));
        ledger.update(found, 1, now);
        assert_eq!(ledger.statuses()[100].code, "no-controller");
        let report = ledger.take_report(now).unwrap();
        assert_eq!((report.problems.len(), report.more), (v1::Problems::MAX, 69));
        // The warning is not crowded out by errors that are all alike.
        let (last, errors) = report.problems.split_last().unwrap();
        assert!(errors.iter().all(|problem| problem.severity == Severity::Error));
        assert_eq!(last.code.as_str(), "no-controller");
    }

    #[test]
    fn problems_of_the_host_have_their_places_however_many_links_are_down() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let host = |code, about: &str| Problem::new(code, about, "dropped");
        let mut found: Vec<Problem> = (0..100).map(|n| down(&format!("edge-{n}"))).collect();
        found.extend((0..20).map(|n| host(Code::ForwardBlocked, &format!("lan{n}"))));
        found.extend([host(Code::Masqueraded, "eth0"), host(Code::GuardMissing, "")]);
        ledger.update(found, 1, now);
        let report = ledger.take_report(now).unwrap();
        assert_eq!((report.problems.len(), report.more), (v1::Problems::MAX, 90));
        let count = |code: Code| {
            let of_code = |problem: &&v1::Problem| problem.code.as_str() == code.name();
            report.problems.iter().filter(of_code).count()
        };
        let codes = [Code::ForwardBlocked, Code::Masqueraded, Code::LinkDown, Code::GuardMissing];
        assert_eq!(codes.map(count), [20, 1, 10, 1]);
        assert_eq!(report.problems[0].code.as_str(), Code::ForwardBlocked.name());
        assert!(report.problems.is_sorted_by_key(|problem| std::cmp::Reverse(problem.severity)));
    }

    #[test]
    fn a_problem_that_comes_and_goes_is_logged_once_a_minute() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let key = Key::of(&down("idc"));
        assert!(ledger.may_log(&key, start));
        assert!(!ledger.may_log(&key, start + LOG_INTERVAL / 2));
        assert!(ledger.may_log(&key, start + LOG_INTERVAL));
    }
}
