//! Links: every pair of edges that are members must have one, unless the operator has decided otherwise.

use std::collections::HashSet;

use cframe_protocol::{
    problem::{Code, Severity},
    v1::{LinkReport, Problem, Report},
};

use super::{
    edges::{EdgeView, NamespaceView},
    groups::{Details, Findings},
};
use crate::decide::names::natural;

/// Seconds that a link may take to come up after both edges are connected.
const GRACE: u64 = 8;
/// The same for an edge that has not reported its links yet.
const UNREPORTED_GRACE: u64 = 12;
/// Bytes of a text that is made of both ends' texts.
const MAX_TEXT: usize = Problem::MAX_TEXT;

#[derive(Default)]
pub(super) struct Counts {
    pub(super) up: usize,
    pub(super) expected: usize,
}

pub(super) fn judge(view: &NamespaceView<'_>, findings: &mut Findings) -> Counts {
    let links = LinkSet::of(view);
    let unneeded = unneeded(view);
    let mut counts = Counts::default();
    let members: Vec<usize> =
        (0..view.edges.len()).filter(|number| view.edges[*number].is_member()).collect();
    for (index, higher) in members.iter().enumerate() {
        for lower in &members[..index] {
            let pair = (*lower, *higher);
            if !unneeded.is_empty() && unneeded.contains(&pair) {
                continue;
            }
            counts.expected += 1;
            let up = links.is_up(pair);
            counts.up += usize::from(up);
            judge_pair(view, pair, up, findings);
        }
    }
    counts
}

/// Pairs that need no link.
fn unneeded(view: &NamespaceView<'_>) -> HashSet<(usize, usize)> {
    let mut pairs = HashSet::new();
    for (number, edge) in view.edges.iter().enumerate() {
        let peers = edge.record.no_link_to.iter().filter_map(|peer| view.number(peer.as_str()));
        pairs.extend(peers.map(|peer| (number.min(peer), number.max(peer))));
    }
    pairs
}

fn judge_pair(
    view: &NamespaceView<'_>,
    (lower, higher): (usize, usize),
    up: bool,
    findings: &mut Findings,
) {
    let (one, other) = (&view.edges[lower], &view.edges[higher]);
    let (Some(since), Some(also)) = (one.online_since(), other.online_since()) else { return };
    if up && view.reported.is_empty() {
        return;
    }
    let reports = |from, to| view.reported.get(&(from, to)).map(Vec::as_slice).unwrap_or_default();
    let (by_one, by_other) = (reports(lower, higher), reports(higher, lower));
    if up {
        for (edge, problem) in
            by_one.iter().map(|p| (one, p)).chain(by_other.iter().map(|p| (other, p)))
        {
            // One end was quicker than the other to see that the link is up again.
            let of_the_past = problem.severity == Severity::Error
                && (problem.code.as_str().starts_with("link-")
                    || problem.code.as_str() == Code::NoEndpoint.name());
            if !of_the_past {
                findings.add_reported((view.name, edge.name), problem);
            }
        }
        return;
    }
    let silent = one.record.endpoints.is_empty() && other.record.endpoints.is_empty();
    let reported = !by_one.is_empty() || !by_other.is_empty();
    if !silent && !reported && since.max(also).saturating_add(grace(one, other)) > view.now {
        return;
    }
    let code = if silent { Code::NoEndpoint } else { reason(by_one, by_other) };
    // The pair under the name that comes first for people.
    let swapped = natural(one.name, other.name).is_gt();
    let ends = if swapped {
        [(other, by_other), (one, by_one)]
    } else {
        [(one, by_one), (other, by_other)]
    };
    let about = ends[1].0.name.as_str();
    findings.add(code, (view.name, ends[0].0.name), about, || describe(view, code, ends));
}

fn grace(one: &EdgeView<'_>, other: &EdgeView<'_>) -> u64 {
    let unreported = |edge: &EdgeView<'_>| edge.seen.is_none_or(|seen| seen.links.is_empty());
    if unreported(one) || unreported(other) { UNREPORTED_GRACE } else { GRACE }
}

/// The most specific code of an error that either end reports.
fn reason(by_one: &[&Problem], by_other: &[&Problem]) -> Code {
    let codes =
        by_one.iter().chain(by_other).filter_map(|problem| problem.code.as_str().parse().ok());
    let mut errors = codes.filter(|code: &Code| {
        code.severity() == Severity::Error && *code != Code::LinkDown && *code != Code::NoEndpoint
    });
    errors.next().unwrap_or(Code::LinkDown)
}

fn describe(
    view: &NamespaceView<'_>,
    code: Code,
    ends: [(&EdgeView<'_>, &[&Problem]); 2],
) -> Details {
    let [(one, _), (other, _)] = ends;
    let (one, other) = (one.name, other.name);
    if code == Code::NoEndpoint {
        let namespace = view.name;
        return Details {
            text: format!(
                "no path between {one} and {other}: neither has an endpoint; give one of them an endpoint, or accept it: \
                 cfctl edge set {one} -n {namespace} --no-link-to {other}"
            ),
            fix: Some(format!("cfctl edge set {one} -n {namespace} --endpoint HOST:PORT")),
            since: None,
        };
    }
    let mut text = format!("no link between {one} and {other}");
    for (edge, problems) in ends {
        for problem in problems {
            text.push_str(&format!("; {} says: {}", edge.name, problem.text));
        }
    }
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    let with_fix = ends.iter().flat_map(|(edge, problems)| {
        problems.iter().filter_map(move |problem| Some((edge, problem.fix.as_ref()?)))
    });
    let fix = with_fix.map(|(edge, fix)| format!("on {}: {fix}", edge.name)).next();
    let fix = fix.or_else(|| Some(format!("run `cframe-edge doctor` on {one} and on {other}")));
    let all = ends.iter().flat_map(|(_, problems)| problems.iter());
    let reported = all.map(|problem| problem.since_unix).min();
    Details { text, fix, since: reported.or_else(|| down_since(ends)) }
}

/// When an end last saw the link go down.
fn down_since(ends: [(&EdgeView<'_>, &[&Problem]); 2]) -> Option<u64> {
    let [(one, _), (other, _)] = ends;
    let at = |edge: &EdgeView<'_>, peer: &EdgeView<'_>| {
        let links = &edge.seen?.links;
        let link = links.iter().find(|link| link.peer == *peer.name && !link.up)?;
        Some(link.since_unix).filter(|since| *since > 0)
    };
    at(one, other).into_iter().chain(at(other, one)).min()
}

/// What both ends report of each pair of edges, or leave out because it is well: two bits, as a thousand edges have half a million pairs.
struct LinkSet {
    up: Vec<u64>,
    down: Vec<u64>,
}

impl LinkSet {
    fn of(view: &NamespaceView<'_>) -> Self {
        let words = pairs(view.edges.len()).div_ceil(64);
        let mut set = Self { up: vec![0; words], down: vec![0; words] };
        for (number, edge) in view.edges.iter().enumerate() {
            let Some(seen) = edge.seen.filter(|_| edge.online_since().is_some()) else { continue };
            // Edges report their links in order, and there may be a million of them.
            let mut next = 0;
            let mut listed = HashSet::new();
            let left_out = leaves_out(&seen.links);
            for link in seen.links.iter().take(Report::MAX_LINKS) {
                let expected = view.edges.get(next).is_some_and(|edge| *edge.name == link.peer);
                let found = if expected { Some(next) } else { view.number(link.peer.as_str()) };
                let Some(peer) = found.filter(|peer| *peer != number) else { continue };
                next = peer + 1;
                let bits = if link.up { &mut set.up } else { &mut set.down };
                put(bits, (number.min(peer), number.max(peer)));
                if left_out {
                    listed.insert(peer);
                }
            }
            if left_out {
                let others = (0..view.edges.len()).filter(|peer| *peer != number);
                for peer in others.filter(|peer| !listed.contains(peer)) {
                    put(&mut set.up, (number.min(peer), number.max(peer)));
                }
            }
        }
        set
    }

    /// Whether an end says that the link is up, and none that it is down.
    fn is_up(&self, pair: (usize, usize)) -> bool {
        let bit = bit(pair);
        let has = |bits: &[u64]| bits.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1);
        has(&self.up) && !has(&self.down)
    }
}

/// Whether an edge has more links than a report can have. Those that are down come first, so all others are up.
fn leaves_out(links: &[LinkReport]) -> bool {
    links.len() >= Report::MAX_LINKS && links.last().is_some_and(|last| last.up)
}

fn put(bits: &mut [u64], pair: (usize, usize)) {
    let bit = bit(pair);
    if let Some(word) = bits.get_mut(bit / 64) {
        *word |= 1 << (bit % 64);
    }
}

fn pairs(edges: usize) -> usize {
    edges * edges.saturating_sub(1) / 2
}

/// The bits before those of a number are the pairs of all smaller numbers.
fn bit((lower, higher): (usize, usize)) -> usize {
    pairs(higher) + lower
}
