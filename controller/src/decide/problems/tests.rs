use cframe_protocol::{
    problem::Severity,
    v1::{LinkReport, Problem, Reply, Report, Rival, SessionDetail, SessionRow, Version},
};
use cframe_store::{Entry, View};

use super::*;
use crate::{
    model::{
        membership::Membership,
        record::{EdgeRecord, Key, NamespaceRecord},
        sample::{entry, label, mesh},
    },
    sessions::Registry,
};

const NOW: u64 = 1_800_000_000;

/// Edges of namespace `prod`: name, endpoints, membership.
fn state(edges: &[(&str, &[&str], Membership)]) -> State {
    let namespace =
        NamespaceRecord { description: String::new(), settings: Default::default(), revision: 4 };
    let mut entries: Vec<Entry> =
        vec![entry(&Key::Mesh, &mesh(1)), entry(&Key::Namespace(label("prod")), &namespace)];
    for (name, endpoints, membership) in edges {
        let edge = EdgeRecord {
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
            membership: Some(*membership),
            ..EdgeRecord::default()
        };
        entries.push(entry(&Key::Edge(label("prod"), label(name)), &edge));
    }
    State::load(&View { revision: 9, entries }).unwrap()
}

/// Three members, each with an endpoint of its own.
fn members() -> State {
    let joined = Membership::Joined;
    state(&[("a", &["a:1"], joined), ("b", &["b:1"], joined), ("c", &["c:1"], joined)])
}

fn online(name: &str, up: &[&str], down: &[&str]) -> SessionRow {
    let link = |peer: &&str, up| LinkReport {
        peer: label(peer),
        up,
        rtt_us: 0,
        path_mtu: 0,
        since_unix: NOW - 60,
    };
    let up = up.iter().map(|peer| link(peer, true));
    SessionRow {
        namespace: label("prod"),
        edge: label(name),
        online: true,
        since: NOW - 100,
        software: String::new(),
        address: "192.0.2.1:1".parse().unwrap(),
        applied: Some(Version { epoch: 7, mesh: 1, namespace: 4 }),
        links: up.chain(down.iter().map(|peer| link(peer, false))).collect(),
        problems: Problems::default(),
        detail: SessionDetail::default(),
    }
}

fn all_up() -> Vec<SessionRow> {
    vec![
        online("a", &["b", "c"], &[]),
        online("b", &["a", "c"], &[]),
        online("c", &["a", "b"], &[]),
    ]
}

fn reporting(mut row: SessionRow, code: &str, about: &str, text: &str) -> SessionRow {
    row.problems.problems.push(Problem {
        code: label(code),
        severity: Severity::Error,
        about: about.into(),
        text: text.into(),
        fix: Some("fix it".into()),
        since_unix: NOW - 50,
    });
    row
}

fn judged(state: &State, rows: Vec<SessionRow>) -> (Vec<ProblemGroup>, NamespaceStatus) {
    judged_after(500, state, rows)
}

/// Some seconds after the last start of a controller.
fn judged_after(
    seconds: u64,
    state: &State,
    rows: Vec<SessionRow>,
) -> (Vec<ProblemGroup>, NamespaceStatus) {
    let registry = Registry::default();
    let mut sessions = AllSessions::new(&registry, NOW - seconds);
    for row in rows {
        sessions.add(Reply::Sessions(vec![row]));
    }
    let mut findings = Findings::groups();
    let mut spaces = namespaces(state, &sessions, NOW, &mut findings);
    (findings.into_groups(), spaces.remove(0))
}

/// `code subject about` of each example.
fn named(state: &State, rows: Vec<SessionRow>) -> Vec<String> {
    let (groups, _) = judged(state, rows);
    let lines = groups.iter().flat_map(|group| {
        group.examples.iter().map(|example| {
            format!("{} {} {}", group.code, example.subject, example.about).trim_end().to_owned()
        })
    });
    lines.collect()
}

#[test]
fn a_mesh_in_which_all_is_up_has_no_problems() {
    let (groups, space) = judged(&members(), all_up());
    assert_eq!(groups, []);
    assert_eq!((space.links_up, space.links_expected, space.in_sync), (3, 3, 3));
}

#[test]
fn a_link_that_one_end_lost_is_named_with_both_ends_and_their_reasons() {
    let mut rows = all_up();
    rows[0] = reporting(online("a", &["c"], &["b"]), "link-down", "b", "no answer");
    rows[1] = reporting(rows[1].clone(), "link-too-narrow", "a", "only 1,200 bytes pass");
    let (groups, space) = judged(&members(), rows);
    assert_eq!((space.links_up, space.links_expected), (2, 3));
    assert_eq!(groups.len(), 1, "{groups:?}");
    let (group, example) = (&groups[0], &groups[0].examples[0]);
    assert_eq!((group.code.as_str(), group.count), ("link-too-narrow", 1));
    assert_eq!((example.subject.as_str(), example.about.as_str()), ("prod/a", "b"));
    assert!(example.text.contains("a says: no answer"), "{}", example.text);
    assert!(example.text.contains("b says: only 1,200 bytes pass"), "{}", example.text);
    assert_eq!(example.since_unix, Some(NOW - 50));
}

#[test]
fn a_link_that_is_down_without_a_reason_is_named_after_a_grace() {
    let mut rows = all_up();
    rows[0] = online("a", &["c"], &["b"]);
    assert_eq!(named(&members(), rows.clone()), ["link-down prod/a b"]);
    rows[1].since = NOW - 3;
    assert_eq!(named(&members(), rows.clone()), [""; 0]);
    // What an edge reports counts at once.
    rows[0] = reporting(rows[0].clone(), "link-down", "b", "refused");
    assert_eq!(named(&members(), rows), ["link-down prod/a b"]);
}

#[test]
fn what_an_end_reports_of_a_link_that_is_up_again_is_left_out_unless_it_is_a_warning() {
    let mut rows = all_up();
    rows[0] = reporting(rows[0].clone(), "link-down", "b", "no answer");
    assert_eq!(named(&members(), rows.clone()), [""; 0]);
    rows[0].problems.problems[0].severity = Severity::Warning;
    rows[0].problems.problems[0].code = label("link-ecn-dropped");
    assert_eq!(named(&members(), rows), ["link-ecn-dropped prod/a b"]);
}

#[test]
fn an_edge_that_is_absent_is_one_problem_and_not_one_of_its_peers() {
    for (membership, code) in [
        (Membership::New, "not-joined"),
        (Membership::Joined, "edge-offline"),
        (Membership::Revoked, "edge-revoked"),
    ] {
        let joined = Membership::Joined;
        let state =
            state(&[("a", &["a:1"], joined), ("b", &["b:1"], joined), ("c", &["c:1"], membership)]);
        let rows = vec![
            reporting(online("a", &["b"], &["c"]), "link-down", "c", "no answer"),
            online("b", &["a"], &["c"]),
        ];
        assert_eq!(named(&state, rows.clone()), [format!("{code} prod/c")]);
        let (_, space) = judged(&state, rows);
        let expected = if membership == joined { 3 } else { 1 };
        assert_eq!((space.links_up, space.links_expected), (1, expected), "{code}");
    }
}

#[test]
fn a_pair_without_endpoints_is_a_problem_until_it_has_a_path_or_needs_none() {
    let joined = Membership::Joined;
    let mut state = state(&[("a", &[], joined), ("b", &[], joined), ("c", &["c:1"], joined)]);
    let mut rows =
        vec![online("a", &["c"], &[]), online("b", &["c"], &[]), online("c", &["a", "b"], &[])];
    assert_eq!(named(&state, rows.clone()), ["no-endpoint prod/a b"]);
    assert_eq!(judged(&state, rows.clone()).1.links_expected, 3);

    let edges = &mut state.namespaces.get_mut(&label("prod")).unwrap().edges;
    edges.get_mut(&label("b")).unwrap().record.no_link_to.insert(label("a"));
    assert_eq!(named(&state, rows.clone()), [""; 0]);
    assert_eq!(judged(&state, rows.clone()).1.links_expected, 2);

    let edges = &mut state.namespaces.get_mut(&label("prod")).unwrap().edges;
    edges.get_mut(&label("b")).unwrap().record.no_link_to.clear();
    rows[0].links.extend(online("a", &["b"], &[]).links);
    assert_eq!(named(&state, rows), [""; 0]);
}

#[test]
fn many_problems_are_counted_and_the_first_in_natural_order_are_shown() {
    let names: Vec<String> = (1..=300).map(|n| format!("site-{n}")).collect();
    let edges: Vec<_> =
        names.iter().map(|name| (name.as_str(), &[][..], Membership::New)).collect();
    let (groups, _) = judged(&state(&edges), Vec::new());
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].title, "300 edges have not joined yet");
    let shown: Vec<_> = groups[0].examples.iter().map(|example| example.subject.as_str()).collect();
    assert_eq!(shown, ["prod/site-1", "prod/site-2", "prod/site-3", "prod/site-4", "prod/site-5"]);
}

#[test]
fn edges_that_are_ahead_or_behind_or_used_twice_are_named() {
    let mut rows = all_up();
    rows[0].applied = Some(Version { epoch: 7, mesh: 1, namespace: 95 });
    rows[0].detail.applied_since = NOW - 5;
    rows[1].detail.unacked_since = Some(NOW - 11);
    rows[2].detail.rival = Some(Rival { address: "192.0.2.9:1".parse().unwrap(), at: NOW - 2 });
    let expected = ["edge-behind prod/b", "identity-in-use prod/c", "store-older prod/a"];
    assert_eq!(named(&members(), rows.clone()), expected);
    rows[0].detail.applied_since = NOW;
    rows[1].detail.unacked_since = Some(NOW - 2);
    rows[2].detail.rival = None;
    // It has sessions with two controllers.
    let mut second = rows[2].clone();
    second.detail.boot = [9; 16];
    second.since = NOW - 20;
    rows.push(second);
    assert_eq!(named(&members(), rows.clone()), ["identity-in-use prod/c"]);
    rows[3].since = NOW - 2;
    assert_eq!(named(&members(), rows), [""; 0], "it may have moved");
}

#[test]
fn an_endpoint_of_two_edges_is_named_if_it_is_the_only_one() {
    let joined = Membership::Joined;
    let both = |a: &[&str], b: &[&str]| {
        let state = state(&[("a", a, joined), ("b", b, joined), ("c", &["c:1"], joined)]);
        named(&state, all_up())
    };
    assert_eq!(both(&["x:1"], &["x:1"]), ["same-endpoint prod/a b"]);
    assert_eq!(both(&["x:1"], &["x:1", "y:1"]), ["same-endpoint prod/a b"]);
    assert_eq!(both(&["x:1", "z:1"], &["x:1", "y:1"]), [""; 0]);
    let state = state(&[("a", &["x:1"], joined), ("b", &["x:1"], joined), ("c", &["c:1"], joined)]);
    let (groups, _) = judged(&state, all_up());
    assert_eq!(groups[0].severity, Severity::Warning, "all links are up");
}

#[test]
fn edges_of_two_namespaces_may_have_one_endpoint() {
    let endpoints = ["x:1".parse().unwrap()];
    let mut state = members();
    let edges = &mut state.namespaces.get_mut(&label("prod")).unwrap().edges;
    edges.get_mut(&label("a")).unwrap().record.endpoints = endpoints.to_vec();
    let mut other = members().namespaces.remove(&label("prod")).unwrap();
    other.edges.get_mut(&label("a")).unwrap().record.endpoints = endpoints.to_vec();
    state.namespaces.insert(label("test"), other);
    let found = named(&state, all_up());
    assert!(!found.iter().any(|found| found.starts_with("same-endpoint")), "{found:?}");
}

#[test]
fn problems_that_an_edge_could_not_report_are_counted_unless_its_links_explain_them() {
    let mut rows = all_up();
    rows[0].problems.more = 3;
    assert_eq!(named(&members(), rows.clone()), ["more-problems prod/a"]);
    rows[0] = reporting(online("a", &[], &["b", "c"]), "link-down", "b", "no answer");
    rows[0].problems.more = 1;
    assert_eq!(named(&members(), rows), ["link-down prod/a b", "link-down prod/a c"]);
}

#[test]
fn an_edge_cannot_pass_off_its_words_as_the_controllers() {
    let fixes = |code: &str, about: &str| {
        let mut rows = all_up();
        rows[0] = reporting(rows[0].clone(), code, about, "text");
        let (groups, _) = judged(&members(), rows);
        groups[0].examples[0].fix.clone().unwrap()
    };
    assert_eq!(fixes("edge-behind", ""), "on a: fix it");
    assert_eq!(fixes("endpoint-is-other", "b"), "on a: fix it");
    // It is shown as for that host.
    assert_eq!(fixes("forwarding-off", "eth0"), "fix it");
}

#[test]
fn an_edge_is_shown_its_own_problems_and_those_of_its_links() {
    let registry = Registry::default();
    let mut sessions = AllSessions::new(&registry, NOW - 500);
    let mut rows = all_up();
    rows[0] =
        reporting(online("a", &["c"], &["b"]), "forwarding-off", "eth0", "eth0 does not forward");
    for row in rows {
        sessions.add(Reply::Sessions(vec![row]));
    }
    let state = members();
    let of = |edge: &str| {
        let found = of_edge(&state, &sessions, (&label("prod"), &label(edge)), NOW).problems;
        found.into_iter().map(|found| format!("{} {}", found.code, found.about)).collect::<Vec<_>>()
    };
    assert_eq!(of("a"), ["link-down b", "forwarding-off eth0"]);
    assert_eq!(of("b"), ["link-down a"]);
    assert_eq!(of("c"), [""; 0]);
}

#[test]
fn links_that_a_full_report_leaves_out_are_up_unless_all_that_it_has_are_down() {
    let names: Vec<String> = (0..Report::MAX_LINKS + 100).map(|n| format!("e{n:04}")).collect();
    let edges: Vec<(&str, &[&str], Membership)> =
        names.iter().map(|name| (name.as_str(), &["e:1"][..], Membership::Joined)).collect();
    let state = state(&edges);
    let report = |own: &String, up: bool| {
        let peers = names.iter().filter(|peer| *peer != own).take(Report::MAX_LINKS);
        let peers: Vec<&str> = peers.map(String::as_str).collect();
        let none: &[&str] = &[];
        if up { online(own, &peers, none) } else { online(own, none, &peers) }
    };
    let rows = || names.iter().map(|name| report(name, true)).collect::<Vec<_>>();
    let count = |rows| {
        let (groups, space) = judged(&state, rows);
        let down = groups.iter().find(|group| group.code.as_str() == "link-down");
        (
            down.map_or(0, |group| group.count as usize),
            (space.links_expected - space.links_up) as usize,
        )
    };
    assert_eq!(count(rows()), (0, 0));
    let mut one_down = rows();
    let last = one_down.len() - 1;
    // Those that are down come first.
    one_down[last].links[0].up = false;
    assert_eq!(count(one_down), (1, 1));
    let mut cut_off = rows();
    cut_off[last] = report(&names[last], false);
    let (named, down) = count(cut_off);
    assert!(named >= Report::MAX_LINKS && named == down, "{named} {down}");
}

#[test]
fn edges_have_some_seconds_to_come_back_to_a_controller_that_has_just_started() {
    let codes = |seconds| {
        let (groups, _) = judged_after(seconds, &members(), Vec::new());
        groups.iter().map(|group| group.code.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(codes(3), [""; 0]);
    assert_eq!(codes(9), ["edge-offline"]);
    // One that was seen and is gone is offline at once.
    let mut gone = online("a", &[], &[]);
    gone.online = false;
    let (groups, _) = judged_after(3, &members(), vec![gone]);
    assert_eq!(groups.len(), 1, "{groups:?}");
}
