//! Collecting problems in groups, with a bounded number of examples.

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeMap,
};

use cframe_pki::identity::Label;
use cframe_protocol::{
    natural::compare,
    problem::{Code, Severity},
    v1::{Problem, ProblemExample, ProblemGroup, Problems},
};

/// Groups in one status. Edges of later versions may report codes that are not known here.
const MAX_GROUPS: usize = 128;

/// What is said of a problem.
pub(crate) struct Details {
    pub(crate) text: String,
    pub(crate) fix: Option<String>,
    /// Unix seconds.
    pub(crate) since: Option<u64>,
}

/// Problems, as they are found.
pub(crate) enum Findings {
    Groups(Groups),
    /// Only those of one edge.
    Edge {
        namespace: Label,
        name: Label,
        found: Vec<Problem>,
    },
}

/// The worst first.
#[derive(Default)]
pub(crate) struct Groups(BTreeMap<(Reverse<Severity>, Label), Group>);

#[derive(Default)]
struct Group {
    count: u32,
    /// In natural order.
    examples: Vec<ProblemExample>,
}

impl Findings {
    pub(crate) fn groups() -> Self {
        Self::Groups(Groups::default())
    }

    pub(crate) fn of_edge(namespace: &Label, name: &Label) -> Self {
        Self::Edge { namespace: namespace.clone(), name: name.clone(), found: Vec::new() }
    }

    /// Adds a problem of an edge, perhaps with another edge. Its text is made only if it is shown.
    pub(crate) fn add(
        &mut self,
        code: Code,
        edge: (&Label, &Label),
        about: &str,
        details: impl FnOnce() -> Details,
    ) {
        self.add_any(&code.into(), code.severity(), edge, about, details);
    }

    /// Adds a problem that an edge reports.
    pub(crate) fn add_reported(&mut self, edge: (&Label, &Label), problem: &Problem) {
        let known = problem.code.as_str().parse::<Code>().ok();
        let severity = known.map_or(problem.severity, Code::severity);
        // The fixes of a host's problems are shown as for that host. Any other says where it comes from, so that no edge
        // can pass off its own words as the controller's.
        let place = if known.is_none_or(Code::is_of_host) {
            String::new()
        } else {
            format!("on {}: ", edge.1)
        };
        self.add_any(&problem.code, severity, edge, &problem.about, || Details {
            text: problem.text.clone(),
            fix: problem.fix.as_ref().map(|fix| format!("{place}{fix}")),
            since: Some(problem.since_unix),
        });
    }

    /// Adds a problem of a controller, or of the mesh if `subject` is empty.
    pub(crate) fn add_of_mesh(&mut self, code: Code, subject: &str, details: Details) {
        if let Self::Groups(groups) = self {
            groups.add(&code.into(), code.severity(), subject.to_owned(), "", || details);
        }
    }

    pub(crate) fn add_group(&mut self, group: ProblemGroup) {
        if let Self::Groups(groups) = self {
            let place = groups.place(&group.code, group.severity);
            place.count = place.count.saturating_add(group.count);
            for example in group.examples {
                place.insert(example);
            }
        }
    }

    pub(crate) fn into_groups(self) -> Vec<ProblemGroup> {
        match self {
            Self::Groups(groups) => groups.finish(),
            Self::Edge { .. } => Vec::new(),
        }
    }

    /// The worst first.
    pub(crate) fn into_problems(self) -> Problems {
        let Self::Edge { mut found, .. } = self else { return Problems::default() };
        found.sort_by(|one, other| {
            let severity = other.severity.cmp(&one.severity);
            severity.then_with(|| compare(&one.about, &other.about))
        });
        let more = found.len().saturating_sub(Problems::MAX);
        found.truncate(Problems::MAX);
        Problems { problems: found, more: u32::try_from(more).unwrap_or(u32::MAX) }
    }

    fn add_any(
        &mut self,
        code: &Label,
        severity: Severity,
        (namespace, edge): (&Label, &Label),
        about: &str,
        details: impl FnOnce() -> Details,
    ) {
        match self {
            Self::Groups(groups) => {
                groups.add(code, severity, format!("{namespace}/{edge}"), about, details);
            }
            Self::Edge { namespace: own, name, found } => {
                let own_namespace = namespace == own;
                if own_namespace && (edge == name || about == name.as_str()) {
                    let about = if edge == name { about } else { edge.as_str() };
                    let Details { text, fix, since } = details();
                    found.push(Problem {
                        code: code.clone(),
                        severity,
                        about: about.to_owned(),
                        text,
                        fix,
                        since_unix: since.unwrap_or(0),
                    });
                }
            }
        }
    }
}

impl Groups {
    fn place(&mut self, code: &Label, severity: Severity) -> &mut Group {
        let key = (Reverse(severity), code.clone());
        if self.0.len() >= MAX_GROUPS
            && !self.0.contains_key(&key)
            && code.as_str().parse::<Code>().is_err()
            && let Ok(other) = "other".parse()
        {
            return self.0.entry((Reverse(severity), other)).or_default();
        }
        self.0.entry(key).or_default()
    }

    fn add(
        &mut self,
        code: &Label,
        severity: Severity,
        subject: String,
        about: &str,
        details: impl FnOnce() -> Details,
    ) {
        let group = self.place(code, severity);
        group.count = group.count.saturating_add(1);
        if group.has_room_before(&subject, about) {
            let Details { text, fix, since } = details();
            let about = about.to_owned();
            group.insert(ProblemExample { subject, about, text, fix, since_unix: since });
        }
    }

    fn finish(self) -> Vec<ProblemGroup> {
        let groups = self.0.into_iter().map(|((Reverse(severity), code), group)| {
            let Group { count, examples } = group;
            let title = match code.as_str().parse::<Code>() {
                Ok(known) => known.heading(count),
                Err(_) if count == 1 => code.to_string(),
                Err(_) => format!("{code} ({count})"),
            };
            ProblemGroup { code, severity, title, count, examples }
        });
        groups.collect()
    }
}

impl Group {
    fn has_room_before(&self, subject: &str, about: &str) -> bool {
        self.examples.len() < ProblemGroup::MAX_EXAMPLES
            || self
                .examples
                .last()
                .is_some_and(|last| order((subject, about), (&last.subject, &last.about)).is_lt())
    }

    fn insert(&mut self, example: ProblemExample) {
        let place = self.examples.partition_point(|other| {
            order((&other.subject, &other.about), (&example.subject, &example.about)).is_le()
        });
        self.examples.insert(place, example);
        self.examples.truncate(ProblemGroup::MAX_EXAMPLES);
    }
}

fn order(one: (&str, &str), other: (&str, &str)) -> Ordering {
    compare(one.0, other.0).then_with(|| compare(one.1, other.1))
}
