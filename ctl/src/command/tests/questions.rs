//! Questions before changes that break traffic, and only before those.

use super::*;

/// The calls of a run that change something.
fn writes(outcome: &Outcome) -> Vec<&'static str> {
    let names = outcome.calls.iter().map(|(call, _)| call.name());
    names.filter(|name| !name.ends_with("-list") && !name.ends_with("-show")).collect()
}

const BREAKING: [(&str, &str); 6] = [
    ("cfctl edge del aws-hk -n prod", "edge-del"),
    ("cfctl edge set aws-hk -n prod --cidr 172.30.0.0/17", "edge-set"),
    ("cfctl namespace del prod --cascade", "namespace-del"),
    ("cfctl route del pods-hk -n prod", "route-del"),
    ("cfctl cert revoke --edge aws-hk -n prod", "cert-revoke"),
    ("cfctl cert revoke 0a1b2c3d4e5f60718293a4b5c6d7e8f9", "cert-revoke"),
];

#[test]
fn anything_but_yes_is_no() {
    for (line, call) in BREAKING {
        for typed in ["", "\n", "n\n", "no\n", "yeah\n"] {
            let outcome = run_typed(line, Some(typed));
            assert_eq!(outcome.result.as_ref().unwrap_err().exit, Exit::Error, "{line}");
            assert_eq!(writes(&outcome), [""; 0], "{line}");
            assert!(outcome.err.contains("[y/N]"), "{line}");
            assert_eq!(outcome.out, "", "{line}");
        }
        for typed in ["y\n", "YES\n"] {
            let outcome = run_typed(line, Some(typed));
            assert_eq!(outcome.result, Ok(Exit::Done), "{line}");
            assert_eq!(writes(&outcome), [call], "{line}");
        }
    }
}

#[test]
fn without_a_terminal_consent_is_a_flag() {
    for (line, call) in BREAKING {
        let outcome = run(line);
        let failure = outcome.result.as_ref().unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{line}");
        assert!(failure.hint.as_ref().unwrap().contains("--yes"), "{line}");
        assert_eq!(writes(&outcome), [""; 0], "{line}");

        let outcome = run(&format!("{line} --yes"));
        assert_eq!(outcome.result, Ok(Exit::Done), "{line}");
        assert_eq!(writes(&outcome), [call], "{line}");
        assert!(!outcome.err.contains("[y/N]"), "{line}");
    }
}

#[test]
fn the_question_says_how_many_edges_lose_what() {
    for (line, expected) in [
        (BREAKING[0].0, "2 edges lose 172.30.0.0/16, 10.244.0.0/16 (behind aws-hk)"),
        (BREAKING[1].0, "2 edges lose 172.30.128.0/17 (behind aws-hk)"),
        (
            BREAKING[2].0,
            "namespace prod is removed with 3 edges (aliyun-sz, aws-hk, idc) and 4 networks",
        ),
        (BREAKING[3].0, "2 edges lose 10.244.0.0/16 (behind aws-hk)"),
        (BREAKING[4].0, "2 edges lose 172.30.0.0/16, 10.244.0.0/16 (behind aws-hk)"),
        (BREAKING[5].0, "1 certificate of edge prod/aws-hk revoked for good"),
    ] {
        let outcome = run_typed(line, Some("n\n"));
        assert!(outcome.err.contains(expected), "{line}\n{}", outcome.err);
    }
}

#[test]
fn changes_that_break_nothing_are_not_asked_about() {
    for line in [
        "cfctl edge set aws-hk -n prod --cidr 172.30.0.0/16,172.31.0.0/16",
        "cfctl edge set aws-hk -n prod --endpoint 198.51.100.9:58423",
        "cfctl edge set aws-hk -n prod --no-endpoint",
        "cfctl edge add lab -n prod --cidr 10.9.0.0/16",
        "cfctl namespace del prod",
        "cfctl token revoke 5f0c",
        "cfctl edge del aws-hk -n prod --dry-run",
    ] {
        let outcome = run(line);
        assert_eq!(outcome.result, Ok(Exit::Done), "{line}");
    }
}
