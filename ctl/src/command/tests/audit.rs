//! The audit log, printed and followed.

use super::*;

fn audit_rows() -> Vec<AuditRow> {
    let row = |id: &str, record: serde_json::Value| AuditRow {
        id: id.to_owned(),
        record: record.to_string(),
    };
    vec![
        row(
            "1769947200042-ctl-1-0000000007",
            serde_json::json!({
                "schema": 1, "time": 1_769_947_200_042u64, "controller": "ctl-1", "who": "admin/alice",
                "serial": HK_SERIAL, "from": "203.0.113.80:51102", "call": "edge-set", "namespace": "prod",
                "subject": "prod/aws-hk",
                "changes": [{ "key": "edges/prod/aws-hk", "before": { "cidrs": ["172.30.0.0/16"] },
                              "after": { "cidrs": ["172.31.0.0/16"] } }],
                "more_changes": 1, "result": "ok", "later": true,
            }),
        ),
        row(
            "1769947201000-ctl-1-0000000008",
            serde_json::json!({
                "schema": 1, "time": 1_769_947_201_000u64, "controller": "ctl-1",
                "who": "token/\u{1b}[2J\u{9b}1m", "call": "join", "result": "not_allowed",
                "message": "gone\n\u{202e}evil",
            }),
        ),
        row(
            "1769947202000-ctl-1-0000000009",
            serde_json::json!({
                "schema": 1, "time": 1_769_947_202_000u64, "controller": "ctl-1",
                "who": "controller/ctl-1", "call": "audit", "result": "ok", "left_out": 947,
            }),
        ),
    ]
}

fn audited(call: &Call) -> Result<Vec<Reply>, Failure> {
    assert!(matches!(call, Call::Audit(_)), "{call:?}");
    let mut rows = audit_rows();
    let rest = rows.split_off(1);
    Ok(vec![Reply::Audit(rows), Reply::Audit(Vec::new()), Reply::Audit(rest)])
}

#[test]
fn the_audit_log_as_a_table() {
    let outcome = run_with("cfctl audit", None, &audited);
    assert_eq!(
        outcome.out,
        "\
TIME                      WHO               CALL      SUBJECT       RESULT       FROM
2026-02-01T12:00:00.042Z  admin/alice       edge-set  prod/aws-hk   ok           203.0.113.80:51102
2026-02-01T12:00:01.000Z  token/\u{fffd}[2J\u{fffd}1m     join      -             not_allowed  -
2026-02-01T12:00:02.000Z  controller/ctl-1  audit     947_left_out  ok           -
"
    );
    let wide = run_with("cfctl audit -o wide", None, &audited).out;
    let line = wide.lines().nth(1).unwrap();
    assert!(
        line.ends_with(
            r#"edges/prod/aws-hk {"cidrs":["172.30.0.0/16"]} -> {"cidrs":["172.31.0.0/16"]} and 1 more"#
        ),
        "{line}"
    );
}

#[test]
fn the_audit_log_as_json() {
    let outcome = run_with("cfctl audit -o json", None, &audited);
    let records: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(
        records[0],
        serde_json::json!({
            "id": "1769947200042-ctl-1-0000000007", "time": "2026-02-01T12:00:00.042Z",
            "controller": "ctl-1", "who": "admin/alice", "serial": HK_SERIAL,
            "from": "203.0.113.80:51102", "call": "edge-set", "namespace": "prod",
            "subject": "prod/aws-hk", "dry_run": false, "result": "ok", "message": null,
            "changes": [{ "key": "edges/prod/aws-hk", "before": { "cidrs": ["172.30.0.0/16"] },
                          "after": { "cidrs": ["172.31.0.0/16"] } }],
            "more_changes": 1, "left_out": 0,
        })
    );
    for format in ["json", "yaml", "table", "wide"] {
        for line in ["cfctl audit", "cfctl audit --follow"] {
            let out = run_with(&format!("{line} -o {format}"), None, &followed_once).out;
            let is_control = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
            assert!(!out.contains(is_control), "{line} -o {format}: {out:?}");
            assert!(out.contains("edge-set") && out.contains("947"), "{line} -o {format}: {out}");
        }
    }
}

/// The second query of a follower is refused, so that it ends.
fn followed_once(call: &Call) -> Result<Vec<Reply>, Failure> {
    let Call::Audit(query) = call else { panic!("{call:?}") };
    if query.follow && query.limit == 0 {
        return Err(Failure::new(Exit::NotAllowed, "gone"));
    }
    audited(call)
}

#[test]
fn a_query_has_the_values_of_the_flags() {
    let line = "cfctl audit --since 1h --until 2026-02-01T11:30:00Z --who admin --call edge-add --limit 7 -n prod";
    let outcome = run_with(line, None, &audited);
    let expected = AuditQuery {
        since: Some((NOW - 3600) * 1000),
        until: Some((NOW - 1800) * 1000),
        who: Some("admin".into()),
        namespace: Some(label("prod")),
        call: Some("edge-add".into()),
        limit: 7,
        follow: false,
    };
    assert_eq!(outcome.calls, [(Call::Audit(expected), false)]);
    let everywhere = run_with("cfctl audit -n prod -A", None, &audited);
    let expected = AuditQuery { limit: 100, ..AuditQuery::default() };
    assert_eq!(everywhere.calls, [(Call::Audit(expected), false)]);
}

#[test]
fn a_follower_queries_again_from_a_minute_before_the_last_record() {
    let asked = std::cell::Cell::new(0);
    let answer = |call: &Call| {
        asked.set(asked.get() + 1);
        match asked.get() {
            1 => audited(call),
            2 => Err(Failure::new(Exit::Unreachable, "lost")),
            3 => Ok(vec![Reply::Audit(audit_rows()[2..].to_vec())]),
            _ => Err(Failure::new(Exit::NotAllowed, "no longer")),
        }
    };
    let outcome = run_with("cfctl audit --follow -o json", None, &answer);
    assert_eq!(outcome.result.map_err(|failure| failure.exit), Err(Exit::NotAllowed));
    assert_eq!(outcome.out.lines().count(), 3, "each once: {}", outcome.out);
    let sinces: Vec<_> = outcome
        .calls
        .iter()
        .map(|(call, _)| match call {
            Call::Audit(query) => (query.since, query.limit),
            other => panic!("{other:?}"),
        })
        .collect();
    let again = (Some(1_769_947_202_000 - 60_000), 0);
    assert_eq!(sinces, [(None, 10), again, again, again]);
}

#[test]
fn a_mesh_that_cannot_be_reached_is_not_followed() {
    let answer = |_: &Call| Err(Failure::new(Exit::Unreachable, "nobody"));
    let outcome = run_with("cfctl audit --follow", None, &answer);
    assert_eq!(outcome.result.map_err(|failure| failure.exit), Err(Exit::Unreachable));
    assert_eq!(outcome.calls.len(), 1);
}
