//! Tables and JSON, as they are printed. Scripts rely on the JSON.

use super::*;

fn out(line: &str) -> String {
    let outcome = run(line);
    assert_eq!(outcome.result, Ok(Exit::Done), "{line}");
    outcome.out
}

#[test]
fn tables() {
    assert_eq!(
        out("cfctl namespace list"),
        "NAME  EDGES  ROUTES  TUN_MTU  CONGESTION\n\
         prod  3      1       1400     transparent\n"
    );
    assert_eq!(
        out("cfctl edge list"),
        "\
NAMESPACE  NAME       STATE       SINCE  LINKS  CIDR           ENDPOINT
prod       aliyun-sz  offline     1m30s  -      172.18.0.0/16  -
prod       aws-hk     online      2h     1/2    172.30.0.0/16  203.0.113.7:58423
prod       idc        never_seen  -      -      10.60.6.0/24   -
"
    );
    assert_eq!(
        out("cfctl route list"),
        "NAMESPACE  NAME     CIDR           EDGE\n\
         prod       pods-hk  10.244.0.0/16  aws-hk\n"
    );
    assert_eq!(
        out("cfctl token list"),
        "NAMESPACE  EDGE  ID                                EXPIRES  REJOIN\n\
         prod       idc   5f0c7c1e9d3b4a86a2d1f4be0c9d7e21  59m      no\n"
    );
    assert_eq!(out("cfctl admin list"), "NAME   ACCESS     EXPIRES\nalice  read-only  1d\n");
    assert_eq!(
        out("cfctl cert list"),
        "\
SERIAL                            KIND   NAMESPACE  NAME    STATE    EXPIRES
0a1b2c3d4e5f60718293a4b5c6d7e8f9  edge   prod       aws-hk  valid    29d
01010101010101010101010101010101  edge   prod       aws-hk  revoked  20d
02020202020202020202020202020202  admin  -          alice   expired  expired
"
    );
}

#[test]
fn every_row_of_every_table_has_as_many_words_as_columns() {
    for noun in ["namespace", "edge", "route", "token", "cert", "admin"] {
        for format in ["table", "wide"] {
            let table = out(&format!("cfctl {noun} list -o {format}"));
            let words = |line: &str| line.split_whitespace().count();
            let columns = words(table.lines().next().unwrap());
            for line in table.lines().skip(1) {
                // The last column of a wide table may be text.
                let exact = words(line) == columns;
                assert!(exact || format == "wide" && words(line) > columns, "{table}");
            }
        }
    }
}

#[test]
fn one_edge_is_printed_above_its_links() {
    assert_eq!(
        out("cfctl edge show aws-hk -n prod"),
        "\
NAMESPACE    prod
NAME         aws-hk
STATE        online
SINCE        2h
LINKS        1/2
CIDR         172.30.0.0/16
ENDPOINT     203.0.113.7:58423
ADDRESS      203.0.113.7:40000
APPLIED      1769000000000.2.7
CERT         25d
SOFTWARE     0.1.0
DESCRIPTION  Hong Kong gateway
NO_LINK_TO   -

PEER       LINK  SINCE  RTT_MS  PATH_MTU
aliyun-sz  up    10m    36.4    1452
idc        down  10m    -       -
"
    );
}

#[test]
fn status_exits_7_with_problems_and_0_without() {
    assert_eq!(
        out("cfctl status"),
        "\
mesh corp: healthy

CONTROLLER  ADDRESS            UPTIME  SOFTWARE  STORE
ctl-1       203.0.113.1:58422  1d2h    0.1.0     embedded, 1.2 MiB

NAMESPACE  ONLINE  IN_SYNC  LINKS  REVISION
prod       2/3     2/2      1/3    7
"
    );
    let outcome = run_with("cfctl status", None, &|_| {
        Ok(vec![Reply::Status(status(vec![absent(Code::EdgeOffline, 1, &["idc"])]))])
    });
    assert_eq!(outcome.result, Ok(Exit::Unhealthy));
    assert!(outcome.out.starts_with("mesh corp: 1 error\n"), "{}", outcome.out);
    let problem = "\nerror: edge prod/idc is absent [edge-offline]\n  fix: fix idc\n";
    assert!(outcome.out.ends_with(problem), "{}", outcome.out);
}

fn absent(code: Code, count: u32, names: &[&str]) -> ProblemGroup {
    let example = |name: &&str| ProblemExample {
        subject: format!("prod/{name}"),
        about: String::new(),
        text: format!("edge prod/{name} is absent"),
        fix: Some(format!("fix {name}")),
        since_unix: Some(NOW),
    };
    ProblemGroup {
        code: code.into(),
        severity: code.severity(),
        title: code.heading(count),
        count,
        examples: names.iter().map(example).collect(),
    }
}

#[test]
fn many_alike_are_one_line_and_warnings_alone_are_healthy() {
    let names = ["site-1", "site-2", "site-10", "site-11", "site-12"];
    let outcome = run_with("cfctl status", None, &|_| {
        Ok(vec![Reply::Status(status(vec![absent(Code::NotJoined, 300, &names)]))])
    });
    assert_eq!(outcome.result, Ok(Exit::Unhealthy));
    assert!(outcome.out.starts_with("mesh corp: 300 errors\n"), "{}", outcome.out);
    let line = "error: 300 edges have not joined yet: site-1, site-2, site-10, site-11, site-12, … \
                [not-joined]\n  fix: fix site-1\n";
    assert!(outcome.out.ends_with(line), "{}", outcome.out);

    let outcome = run_with("cfctl status", None, &|_| {
        Ok(vec![Reply::Status(status(vec![absent(Code::Expiring, 1, &["idc"])]))])
    });
    assert_eq!(outcome.result, Ok(Exit::Done));
    assert!(outcome.out.starts_with("mesh corp: healthy, 1 warning\n"), "{}", outcome.out);
}

#[test]
fn the_fix_of_an_edges_host_is_shown_as_for_that_host() {
    let shown = |group: ProblemGroup| {
        run_with("cfctl status", None, &|_| Ok(vec![Reply::Status(status(vec![group.clone()]))]))
            .out
    };
    let own = shown(absent(Code::ForwardingOff, 1, &["idc"]));
    assert!(own.ends_with("\n  fix on prod/idc: fix idc\n"), "{own}");
    let mut later = absent(Code::ForwardingOff, 1, &["idc"]);
    later.code = label("of-a-later-version");
    assert!(shown(later).ends_with("\n  fix on prod/idc: fix idc\n"));
    let controllers = shown(absent(Code::NotJoined, 1, &["idc"]));
    assert!(controllers.ends_with("\n  fix: fix idc\n"), "{controllers}");
}

#[test]
fn problems_with_texts_of_their_own_have_a_line_each() {
    let group = |count| {
        let mut group = absent(Code::LinkDown, count, &["a", "b"]);
        for (example, about) in group.examples.iter_mut().zip(["b", "c"]) {
            example.about = about.into();
            example.text = format!("no link to {about}\u{1b}[2J");
        }
        group
    };
    let outcome =
        run_with("cfctl status", None, &|_| Ok(vec![Reply::Status(status(vec![group(7)]))]));
    let lines = "\
error: 7 links are down [link-down]
  prod/a: no link to b\u{fffd}[2J
    fix: fix a
  prod/b: no link to c\u{fffd}[2J
    fix: fix b
  … and 5 more
";
    assert!(outcome.out.ends_with(lines), "{}", outcome.out);
    let outcome = run_with("cfctl status -o json", None, &|_| {
        Ok(vec![Reply::Status(status(vec![group(7)]))])
    });
    let json: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    let found = &json["problems"][0];
    assert_eq!((&found["code"], &found["severity"]), (&"link-down".into(), &"error".into()));
    assert_eq!((&found["count"], &json["healthy"]), (&7.into(), &false.into()));
    assert_eq!(found["examples"][0]["about"], "b");
    assert_eq!(found["examples"][0]["fix"], "fix a");
}

#[test]
fn namespaces_in_json() {
    assert_eq!(
        out("cfctl namespace list -o json"),
        r#"[
  {
    "name": "prod",
    "description": "all that earns money",
    "edges": 3,
    "routes": 1,
    "tun_mtu": 1400,
    "congestion": "transparent",
    "revision": 7
  }
]
"#
    );
}

#[test]
fn edges_in_json() {
    assert_eq!(
        out("cfctl edge show aws-hk -n prod -o json"),
        r#"{
  "namespace": "prod",
  "name": "aws-hk",
  "state": "online",
  "since": "2026-02-01T10:00:00Z",
  "cidrs": [
    "172.30.0.0/16"
  ],
  "endpoints": [
    "203.0.113.7:58423"
  ],
  "description": "Hong Kong gateway",
  "address": "203.0.113.7:40000",
  "applied": {
    "epoch": 1769000000000,
    "mesh": 2,
    "namespace": 7
  },
  "cert_expires": "2026-02-26T12:00:00Z",
  "software": "0.1.0",
  "links": [
    {
      "peer": "aliyun-sz",
      "up": true,
      "since": "2026-02-01T11:50:00Z",
      "rtt_us": 36420,
      "path_mtu": 1452
    },
    {
      "peer": "idc",
      "up": false,
      "since": "2026-02-01T11:50:00Z",
      "rtt_us": null,
      "path_mtu": null
    }
  ],
  "no_link_to": [],
  "problems": []
}
"#
    );
    let list: serde_json::Value = serde_json::from_str(&out("cfctl edge list -o json")).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 3);
    assert_eq!(list[2]["state"], "never_seen");
    assert!(list[2]["since"].is_null() && list[2]["software"].is_null());
}

#[test]
fn routes_tokens_and_admins_in_json() {
    assert_eq!(
        out("cfctl route list -o json"),
        r#"[
  {
    "namespace": "prod",
    "name": "pods-hk",
    "cidr": "10.244.0.0/16",
    "edge": "aws-hk"
  }
]
"#
    );
    assert_eq!(
        out("cfctl token list -o json"),
        r#"[
  {
    "namespace": "prod",
    "edge": "idc",
    "id": "5f0c7c1e9d3b4a86a2d1f4be0c9d7e21",
    "created": "2026-02-01T11:59:00Z",
    "expires": "2026-02-01T12:59:00Z",
    "rejoin": false,
    "created_by": "alice"
  }
]
"#
    );
    assert_eq!(
        out("cfctl admin list -o json"),
        r#"[
  {
    "name": "alice",
    "read_only": true,
    "not_after": "2026-02-02T12:00:00Z"
  }
]
"#
    );
}

#[test]
fn a_new_token_in_json_has_its_command() {
    assert_eq!(
        out("cfctl token create -n prod --edge idc -o json"),
        r#"{
  "namespace": "prod",
  "edge": "idc",
  "id": "5f0c7c1e9d3b4a86a2d1f4be0c9d7e21",
  "expires": "2026-02-01T13:00:00Z",
  "token": "cfj1.c2VjcmV0",
  "command": "cframe-edge join cfj1.c2VjcmV0"
}
"#
    );
}

#[test]
fn certificates_in_json() {
    let spki = "5b".repeat(32);
    assert_eq!(
        out(&format!("cfctl cert show {} -o json", "01".repeat(16))),
        format!(
            r#"{{
  "serial": "01010101010101010101010101010101",
  "kind": "edge",
  "namespace": "prod",
  "name": "aws-hk",
  "id": "spiffe://corp/ns/prod/edge/aws-hk",
  "state": "revoked",
  "not_before": "2026-01-22T12:00:00Z",
  "not_after": "2026-02-21T12:00:00Z",
  "spki": "{spki}",
  "revoked_at": "2026-01-31T12:00:00Z",
  "reason": "key copied"
}}
"#
        )
    );
}

#[test]
fn status_in_json() {
    assert_eq!(
        out("cfctl status -o json"),
        r#"{
  "mesh": "corp",
  "healthy": true,
  "epoch": 1769000000000,
  "mesh_revision": 2,
  "controllers": [
    {
      "name": "ctl-1",
      "address": "203.0.113.1:58422",
      "software": "0.1.0",
      "uptime_seconds": 93600,
      "store": "embedded, 1.2 MiB"
    }
  ],
  "namespaces": [
    {
      "name": "prod",
      "edges": 3,
      "online": 2,
      "in_sync": 2,
      "links_up": 1,
      "links_expected": 3,
      "revision": 7
    }
  ],
  "problems": []
}
"#
    );
}

#[test]
fn changes_in_json_and_yaml() {
    let line = "cfctl edge add idc -n prod --quiet";
    assert_eq!(
        out(&format!("{line} -o json")),
        r#"{
  "kind": "edge",
  "namespace": "prod",
  "name": "idc",
  "change": "added",
  "dry_run": false,
  "version": {
    "epoch": 1769000000000,
    "mesh": 2,
    "namespace": 7
  },
  "warnings": []
}
"#
    );
    assert!(
        out(&format!("{line} -o yaml")).starts_with("kind: edge\nnamespace: prod\nname: idc\n")
    );
}

#[test]
fn versions_of_both_ends() {
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("cfctl       {version}\ncontroller  0.1.0\nprotocol    1\n");
    assert_eq!(out("cfctl version"), expected);
    let json: serde_json::Value = serde_json::from_str(&out("cfctl version -o json")).unwrap();
    assert_eq!(json["protocol"], 1);
}

#[test]
fn running_and_stopped_controllers_in_json() {
    let list: serde_json::Value =
        serde_json::from_str(&out("cfctl controller list -o json")).unwrap();
    assert_eq!(list[0]["running"], true);
    assert_eq!(list[1]["running"], false);
    assert!(list[1]["since"].is_null() && list[1]["software"].is_null());
    assert_eq!(
        out("cfctl controller show ctl-1 -o json"),
        format!(
            r#"{{
  "name": "ctl-1",
  "running": true,
  "since": "2026-02-01T11:00:00Z",
  "software": "0.1.0",
  "addresses": [
    "203.0.113.1:58422"
  ],
  "added": "2026-01-31T12:00:00Z",
  "issuer": "{}",
  "issuer_expires": "2028-10-28T12:00:00Z"
}}
"#,
            "ab".repeat(32)
        )
    );
}
