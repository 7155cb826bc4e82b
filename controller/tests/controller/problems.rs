//! What the status says is wrong, with real sessions.

use std::sync::Arc;

use cframe_protocol::{
    problem::Severity,
    session::Command,
    v1::{
        Call, Desired, EdgeLiveness, GoodbyeReason, LinkReport, MeshStatus, Problem,
        ProblemExample, Problems, Reply, Report, Version,
    },
};

use crate::support::{
    admin::AdminCalls, calls::label, controller::TestController, edge::TestEdge, wait::until,
};

fn example<'a>(status: &'a MeshStatus, code: &str) -> Option<&'a ProblemExample> {
    let group = status.problems.iter().find(|group| group.code.as_str() == code)?;
    group.examples.first()
}

fn codes(status: &MeshStatus) -> Vec<&str> {
    status.problems.iter().map(|group| group.code.as_str()).collect()
}

fn report(peers: &[(&str, bool)]) -> Command {
    let link = |(peer, up): &(&str, bool)| LinkReport {
        peer: label(peer),
        up: *up,
        rtt_us: 0,
        path_mtu: 0,
        since_unix: 1,
    };
    Command::Report(Report {
        links: peers.iter().map(link).collect(),
        cert_not_after: 0,
        applied: None,
    })
}

fn problem(code: &str, about: &str, text: &str) -> Command {
    let problem = Problem {
        code: label(code),
        severity: Severity::Error,
        about: about.into(),
        text: text.into(),
        fix: None,
        since_unix: 1,
    };
    Command::Problems(Problems { problems: vec![problem], more: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_learn_when_an_edge_joins_and_when_it_is_revoked() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    let mut a = TestEdge::online(controller.join("a").await.client()).await;
    let before = a.any_state().await;
    assert!(before.edges[&label("a")].joined && !before.edges[&label("b")].joined);

    let b = controller.join("b").await;
    let after = a.state(|state| state.edges[&label("b")].joined).await;
    assert_eq!(after.version.namespace, before.version.namespace + 1);

    let call = Call::CertRevoke { serial: b.serial(), reason: String::new() };
    controller.change(call).await;
    a.state(|state| !state.edges[&label("b")].joined).await;
    assert!(matches!(controller.edge("b").await.state, EdgeLiveness::Revoked { .. }));
    let status = controller.status().await;
    assert_eq!(codes(&status), ["edge-revoked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_both_ends_report_as_down_is_one_problem_with_both_reasons() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    let a = TestEdge::online(controller.join("a").await.client()).await;
    let b = TestEdge::online(controller.join("b").await.client()).await;
    a.commands.send(report(&[("b", true)])).await.unwrap();
    b.commands.send(report(&[("a", true)])).await.unwrap();
    until(async || controller.status().await.namespaces[0].links_up == 1).await;

    a.commands.send(report(&[("b", false)])).await.unwrap();
    a.commands.send(problem("link-down", "b", "no answer")).await.unwrap();
    b.commands
        .send(problem("link-one-way", "a", "only the first packet was answered"))
        .await
        .unwrap();
    until(async || {
        let status = controller.status().await;
        example(&status, "link-one-way").is_some_and(|example| {
            example.text.contains("a says: no answer") && example.text.contains("b says: only")
        })
    })
    .await;
    assert_eq!(controller.edge("b").await.problems.problems[0].about, "a");

    a.commands.send(report(&[("b", true)])).await.unwrap();
    until(async || controller.status().await.problems.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_without_endpoints_is_a_problem_until_the_operator_accepts_it() {
    let controller = TestController::with_edges(&["a", "b"]).await;
    let set = |endpoints, no_link_to| Call::EdgeSet {
        namespace: label("prod"),
        name: label("a"),
        cidrs: None,
        endpoints,
        description: None,
        no_link_to,
    };
    for edge in ["a", "b"] {
        let call = Call::EdgeSet {
            namespace: label("prod"),
            name: label(edge),
            cidrs: None,
            endpoints: Some(Vec::new()),
            description: None,
            no_link_to: None,
        };
        controller.change(call).await;
    }
    let _a = TestEdge::online(controller.join("a").await.client()).await;
    let _b = TestEdge::online(controller.join("b").await.client()).await;
    let status = controller.status().await;
    assert_eq!((codes(&status), status.namespaces[0].links_expected), (vec!["no-endpoint"], 1));
    controller.change(set(None, Some(vec![label("b")]))).await;
    let status = controller.status().await;
    assert_eq!((codes(&status), status.namespaces[0].links_expected), (vec![], 0));
    assert_eq!(controller.edge("a").await.no_link_to, [label("b")]);
    controller.change(set(None, Some(Vec::new()))).await;
    assert_eq!(codes(&controller.status().await), ["no-endpoint"]);
    controller.refusal(set(None, Some(vec![label("a")]))).await;
    controller.refusal(set(None, Some(vec![label("x")]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_with_one_identity_the_first_keeps_its_session_and_the_second_is_told() {
    let controller = TestController::with_edges(&["a"]).await;
    let identity = controller.join("a").await;
    let first = TestEdge::online(identity.client()).await;
    let mut second = TestEdge::connect_as_other_process(identity.client());
    second.goodbye(GoodbyeReason::InUse).await;
    let status = controller.status().await;
    let found = example(&status, "identity-in-use").unwrap();
    assert!(found.text.contains("127.0.0.1"), "{}", found.text);
    assert!(found.fix.as_ref().unwrap().contains("--rejoin"), "{found:?}");

    // It takes over as soon as the first is gone, and the problem ends.
    drop(first);
    second.any_state().await;
    until(async || example(&controller.status().await, "identity-in-use").is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_ahead_of_the_store_is_named_and_waiting_for_it_fails() {
    let controller = TestController::with_edges(&["a"]).await;
    let identity = controller.join("a").await;
    let mut edge = TestEdge::online(identity.client()).await;
    let state = edge.any_state().await;
    drop(edge);
    let mut later = Desired::clone(&state);
    later.version = Version { namespace: state.version.namespace + 50, ..state.version };
    let mut ahead = TestEdge::connect(identity.client(), Some(Arc::new(later)));
    ahead.connected().await;
    until(async || codes(&controller.status().await) == ["store-older"]).await;
    let wait = Call::Wait { namespace: label("prod"), version: state.version, timeout_secs: 30 };
    let error = controller.refusal(wait).await;
    assert!(error.message.contains("store is older"), "{}", error.message);
    assert!(error.message.contains('a'));

    let accepted = controller.change(Call::StoreAccept).await;
    assert!(accepted.version.epoch > state.version.epoch);
    assert!(accepted.warnings[0].contains("again"), "{accepted:?}");
    ahead.state(|state| state.version == accepted_in(accepted.version, state.version)).await;
    until(async || codes(&controller.status().await) == [""; 0]).await;
}

/// A version of the mesh, as a namespace has it.
fn accepted_in(mesh: Version, namespace: Version) -> Version {
    Version { namespace: namespace.namespace, ..mesh }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_fails_with_the_reason_also_if_another_controller_has_the_edge() {
    let [a, b] = TestController::pair(&["x"]).await;
    let identity = a.join("x").await;
    let mut edge = TestEdge::online(b.only(&identity)).await;
    let state = edge.any_state().await;
    drop(edge);
    let mut later = Desired::clone(&state);
    later.version = Version { namespace: state.version.namespace + 50, ..state.version };
    let mut ahead = TestEdge::connect(b.only(&identity), Some(Arc::new(later)));
    ahead.connected().await;
    let wait = Call::Wait { namespace: label("prod"), version: state.version, timeout_secs: 30 };
    let error = a.refusal(wait).await;
    assert!(error.message.contains("store is older"), "{}", error.message);
    assert!(error.message.contains('x') && error.hint.is_some(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_edges_that_have_not_joined_are_one_group_in_natural_order() {
    let controller = TestController::start().await;
    controller.add_namespace("prod").await;
    for number in (1..=300).rev() {
        let cidr = format!("10.{}.{}.0/24", number / 200, number % 200);
        controller.add_edge("prod", &format!("site-{number}"), &cidr).await;
    }
    let status = controller.status().await;
    assert_eq!(status.problems.len(), 1, "{:?}", status.problems);
    let group = &status.problems[0];
    assert_eq!((group.code.as_str(), group.count), ("not-joined", 300));
    assert_eq!(group.title, "300 edges have not joined yet");
    let first: Vec<&str> = group.examples.iter().map(|example| example.subject.as_str()).collect();
    assert_eq!(first, ["prod/site-1", "prod/site-2", "prod/site-3", "prod/site-4", "prod/site-5"]);
    let listed = controller.merged_reply(Call::EdgeList { namespace: None }).await;
    let Reply::Edges(rows) = &listed else { panic!("{listed:?}") };
    let order: Vec<&str> = rows.iter().take(3).map(|row| row.name.as_str()).collect();
    assert_eq!(order, ["site-1", "site-2", "site-3"]);
}
