//! Changes: the calls, and the messages about them.

use super::*;

#[test]
fn an_edge_is_added_with_all_that_was_given() {
    let outcome = run(
        "cfctl edge add aws-hk --namespace prod --cidr 172.30.0.0/16 --endpoint 203.0.113.7:58423",
    );
    assert_eq!(outcome.result, Ok(Exit::Done));
    let call = Call::EdgeAdd {
        namespace: label("prod"),
        name: label("aws-hk"),
        cidrs: vec![label("172.30.0.0/16")],
        endpoints: vec![label("203.0.113.7:58423")],
        description: String::new(),
    };
    assert_eq!(outcome.calls, [(call, false)]);
    assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("", "edge prod/aws-hk added\n"));
}

#[test]
fn a_route_is_added_behind_its_edge() {
    let outcome = run("cfctl ro create pods-hk -n prod --cidr 10.244.0.0/16 --nexthop aws-hk");
    let call = Call::RouteAdd {
        namespace: label("prod"),
        name: label("pods-hk"),
        prefix: label("10.244.0.0/16"),
        edge: label("aws-hk"),
    };
    assert_eq!(outcome.calls, [(call, false)]);
}

#[test]
fn a_namespace_has_defaults_and_other_settings_do_not_change() {
    let outcome = run("cfctl namespace add prod --tun-mtu 1500");
    let settings = Settings { tun_mtu: 1500, ..Settings::default() };
    let call = Call::NamespaceAdd { name: label("prod"), settings, description: String::new() };
    assert_eq!(outcome.calls, [(call, false)]);

    let outcome = run("cfctl namespace set prod --tun-mtu 1280");
    let call = Call::NamespaceSet { name: label("prod"), tun_mtu: Some(1280), congestion: None };
    assert_eq!(outcome.calls, [(call, false)]);
}

#[test]
fn a_dry_run_is_sent_and_printed_as_one() {
    let outcome = run("cfctl edge del aws-hk -n prod --dry-run");
    let (call, dry_run) = outcome.calls.last().unwrap();
    assert_eq!((call.name(), *dry_run), ("edge-del", true));
    assert!(outcome.err.starts_with("2 edges lose 172.30.0.0/16, 10.244.0.0/16 (behind aws-hk)\n"));
    assert!(outcome.err.ends_with("edge prod/aws-hk would be removed (dry run)\n"));
    assert!(!outcome.err.contains("[y/N]"));
    let outcome = run("cfctl token create -n prod --edge idc --dry-run");
    assert_eq!(outcome.out, "");
    assert_eq!(outcome.err, "token prod/idc would be made (dry run)\n");
}

#[test]
fn without_a_namespace_nothing_is_sent() {
    for line in ["cfctl edge show a", "cfctl edge add a", "cfctl token create --edge a"] {
        let outcome = run(line);
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{line}");
        assert!(failure.hint.unwrap().contains("-n NAME"), "{line}");
        assert!(outcome.calls.is_empty(), "{line}");
    }
}

#[test]
fn a_list_has_all_namespaces_unless_one_is_given() {
    let scope = |line: &str| match run(line).calls.remove(0).0 {
        Call::EdgeList { namespace } => namespace,
        other => panic!("{other:?}"),
    };
    assert_eq!(scope("cfctl edge list"), None);
    assert_eq!(scope("cfctl edge list -n prod").unwrap(), "prod");
    assert_eq!(scope("cfctl edge list -n prod -A"), None);
}

#[test]
fn a_token_is_one_line_ready_to_paste() {
    let outcome = run("cfctl token create --namespace prod --edge aws-hk --ttl 90s");
    assert_eq!(outcome.out, "cframe-edge join cfj1.c2VjcmV0\n");
    assert!(outcome.err.contains("for 1m30s"), "{}", outcome.err);
    assert!(!outcome.err.contains("c2VjcmV0"));
    let Call::TokenCreate { ttl_secs, rejoin, .. } = outcome.calls[0].0 else { panic!() };
    assert_eq!((ttl_secs, rejoin), (90, false));
}

#[test]
fn warnings_are_shown_also_when_quiet() {
    let outcome = run_with("cfctl edge add a -n prod --quiet", None, &|_| {
        let warnings = vec!["203.0.113.7 is inside 203.0.113.0/24".to_owned()];
        Ok(vec![Reply::Changed(Changed { version: VERSION, warnings })])
    });
    assert_eq!(outcome.err, "warning: 203.0.113.7 is inside 203.0.113.0/24\n");
}

#[test]
fn revoking_an_edges_certificates_skips_revoked_ones() {
    let outcome = run("cfctl cert revoke --edge aws-hk -n prod --yes --reason lost");
    let (serial, reason) = (label(HK_SERIAL), "lost".to_owned());
    assert_eq!(outcome.calls.last().unwrap().0, Call::CertRevoke { serial, reason });
    assert_eq!(outcome.calls.len(), 2);
    let outcome = run("cfctl cert revoke --edge idc -n prod --yes");
    assert_eq!(outcome.result.unwrap_err().exit, Exit::NotFound);
}

#[test]
fn waiting_succeeds_when_all_connected_edges_have_the_change() {
    let outcome =
        run_typed("cfctl route add a -n prod --cidr 10.0.0.0/16 --edge idc --wait", Some(""));
    assert_eq!(outcome.result, Ok(Exit::Done));
    assert!(
        outcome.err.contains("\r\u{1b}[K1 of 2 edges have it, waiting for idc"),
        "{:?}",
        outcome.err
    );
    assert!(outcome.err.ends_with("2 edges of prod connected, and all have it\n"));
    let wait = Call::Wait { namespace: label("prod"), version: VERSION, timeout_secs: 10 };
    assert_eq!(outcome.calls.last().unwrap().0, wait);
}

#[test]
fn after_the_timeout_of_wait_the_exit_code_is_unhealthy_and_the_change_stays() {
    let line = "cfctl edge set idc -n prod --no-endpoint --wait --timeout 1500ms -o json";
    let outcome = run_with(line, None, &|call| match call {
        Call::Wait { timeout_secs: 2, .. } => {
            let waiting = vec![label("idc"), label("lab")];
            Ok(vec![Reply::Progress(Progress { acked: 1, total: 3, waiting })])
        }
        other => sample(other),
    });
    let failure = outcome.result.unwrap_err();
    assert_eq!(failure.exit, Exit::Unhealthy);
    assert_eq!(failure.message, "after 1s: 1 of 3 edges have it, waiting for idc, lab");
    assert!(outcome.out.contains("\"change\": \"changed\""), "{}", outcome.out);
    assert!(!outcome.err.contains('\r'), "no progress off a terminal");
}

#[test]
fn a_controller_that_does_not_answer_may_have_edges_that_lack_the_change() {
    let line = "cfctl route add r -n prod --cidr 10.9.0.0/16 --edge idc --wait --timeout 1s";
    let all = || Reply::Progress(Progress { acked: 2, total: 2, waiting: Vec::new() });
    let outcome = run_with(line, None, &|call| match call {
        Call::Wait { .. } => Ok(vec![Reply::Unheard(vec![label("ctl-2")]), all()]),
        other => sample(other),
    });
    let failure = outcome.result.unwrap_err();
    assert_eq!(failure.exit, Exit::Unhealthy);
    assert!(failure.message.ends_with("controller ctl-2 does not answer"), "{}", failure.message);
    // It answers in the end.
    let outcome = run_with(line, None, &|call| match call {
        Call::Wait { .. } => {
            Ok(vec![Reply::Unheard(vec![label("ctl-2")]), Reply::Unheard(Vec::new()), all()])
        }
        other => sample(other),
    });
    assert_eq!(outcome.result.unwrap(), Exit::Done);
}

#[test]
fn removing_a_controller_asks_first() {
    let refused = run("cfctl controller del ctl-2");
    assert!(refused.result.is_err() && refused.calls.is_empty());
    let outcome = run_typed("cfctl controller del ctl-2 --revoke-issuer", Some("y\n"));
    assert_eq!(outcome.result.unwrap(), Exit::Done);
    assert!(outcome.err.contains("its issuing CA"), "{}", outcome.err);
    let call = Call::ControllerDel { name: label("ctl-2"), revoke_issuer: true };
    assert_eq!(outcome.calls, [(call.clone(), true), (call, false)]);
}

#[test]
fn changes_that_no_edge_receives_are_not_waited_for() {
    for line in ["cfctl namespace add lab --wait", "cfctl edge add a -n prod --wait --dry-run"] {
        assert!(run(line).calls.iter().all(|(call, _)| call.name() != "wait"), "{line}");
    }
}

#[test]
fn a_refusal_keeps_its_message_hint_and_code() {
    let outcome = run_with("cfctl edge show aws-kh -n prod", None, &|_| {
        Err(Failure::new(Exit::NotFound, "no edge aws-kh in prod").hint("did you mean aws-hk?"))
    });
    let failure = outcome.result.unwrap_err();
    assert_eq!(
        (failure.exit, failure.message.as_str()),
        (Exit::NotFound, "no edge aws-kh in prod")
    );
}

#[test]
fn an_answer_of_another_kind_is_an_error() {
    let answer = |_: &_| Ok(vec![Reply::Version { software: String::new(), protocol: 9 }]);
    for line in ["cfctl edge list", "cfctl edge add a -n prod", "cfctl status"] {
        let outcome = run_with(line, None, &answer);
        assert!(outcome.result.unwrap_err().hint.unwrap().contains("cfctl version"), "{line}");
    }
}

#[test]
fn before_an_older_store_is_accepted_the_question_says_what_is_lost() {
    let answer = |call: &Call| match call {
        Call::StoreAccept => {
            let warnings = vec!["revoke again".to_owned()];
            Ok(vec![Reply::Changed(Changed { version: VERSION, warnings })])
        }
        call => sample(call),
    };
    let outcome = run_with("cfctl store accept", Some("n\n"), &answer);
    let question = "every edge replaces its state by that of the store, which may be older\nrevoke again\nContinue?";
    assert!(outcome.err.starts_with(question), "{}", outcome.err);
    assert_eq!(outcome.calls, [(Call::StoreAccept, true)], "and is not accepted");
    let outcome = run_with("cfctl store accept --yes", None, &answer);
    assert_eq!(outcome.calls, [(Call::StoreAccept, false)]);
    assert!(outcome.err.ends_with("store mesh accepted\n"), "{}", outcome.err);
}
