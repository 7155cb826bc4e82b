//! The program: its exit codes, streams and environment, with real connections on loopback.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

#[path = "program/fake.rs"]
mod fake;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use cframe_protocol::v1::{
    Call, CallError, Changed, ErrorCode, Progress, Reply, RouteRow, Version,
};
use fake::TestCa;

/// The program with only `HOME` in its environment.
fn cfctl(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cfctl"));
    command.env_clear().env("HOME", home).stdin(Stdio::null());
    command
}

fn run(home: &Path, config: &Path, line: &str) -> Output {
    cfctl(home).arg("--config").arg(config).args(line.split_whitespace()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
}

fn answer(call: &Call) -> Vec<Result<Reply, CallError>> {
    let error = |code| vec![Err(CallError { code, message: "no".into(), hint: Some("so".into()) })];
    let namespace = || "prod".parse().unwrap();
    let row = |name: String| RouteRow {
        namespace: namespace(),
        name: name.parse().unwrap(),
        prefix: "10.244.0.0/16".parse().unwrap(),
        edge: "aws-hk".parse().unwrap(),
    };
    match call {
        Call::Version => vec![Ok(Reply::Version { software: "9.9.9".into(), protocol: 1 })],
        Call::RouteList { .. } => (0..3)
            .map(|frame| (0..200).map(|i| row(format!("r-{frame}-{i}"))).collect())
            .map(|rows| Ok(Reply::Routes(rows)))
            .collect(),
        Call::RouteAdd { .. } | Call::RouteDel { .. } => {
            let version = Version { epoch: 1, mesh: 2, namespace: 3 };
            vec![Ok(Reply::Changed(Changed { version, warnings: vec!["mind".into()] }))]
        }
        Call::Wait { .. } => {
            let waiting = vec!["idc".parse().unwrap()];
            vec![
                Ok(Reply::Progress(Progress { acked: 1, total: 2, waiting })),
                Err(CallError::new(ErrorCode::Unavailable, "1 of 2")),
            ]
        }
        Call::EdgeShow { name, .. } if *name == "missing" => error(ErrorCode::NotFound),
        Call::EdgeShow { name, .. } if *name == "secret" => error(ErrorCode::NotAllowed),
        Call::EdgeAdd { .. } => error(ErrorCode::Conflict),
        Call::NamespaceAdd { .. } => error(ErrorCode::Invalid),
        Call::NamespaceList => error(ErrorCode::Unavailable),
        _ => Vec::new(),
    }
}

#[test]
fn every_answer_of_a_controller_has_its_exit_code() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let controller = ca.controller(answer);
    let config = ca.admin(home.path(), &[&controller.address.to_string()], 30);
    for (line, code) in [
        ("version", 0),
        ("namespace add lab", 1),
        ("status", 1),
        ("edge show missing -n prod", 3),
        ("edge add a -n prod", 4),
        ("edge show secret -n prod", 5),
        ("namespace list", 6),
        ("route add a -n prod --cidr 10.0.0.0/8 --edge b --wait --timeout 2s", 7),
    ] {
        let output = run(home.path(), &config, line);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", text(&output.stderr));
    }
    let refused = run(home.path(), &config, "edge show missing -n prod");
    assert_eq!(text(&refused.stderr), "error: no\nhint: so\n");
}

#[test]
fn a_long_list_is_complete_and_fast() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let controller = ca.controller(answer);
    let config = ca.admin(home.path(), &[&controller.address.to_string()], 30);
    let started = Instant::now();
    let output = run(home.path(), &config, "route list -o json");
    let elapsed = started.elapsed();
    assert_exit(&output, 0);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 600);
    println!("one command with its handshake: {elapsed:?}");
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}

#[test]
fn a_controller_of_another_mesh_is_not_called() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let controller = ca.controller(answer);
    let config = TestCa::new().admin(home.path(), &[&controller.address.to_string()], 30);
    let output = run(home.path(), &config, "version");
    assert_exit(&output, 6);
    let error = text(&output.stderr);
    assert!(error.contains(&controller.address.to_string()), "{error}");
    assert!(error.lines().next().unwrap().to_lowercase().contains("cert"), "{error}");
}

#[test]
fn a_revoked_admin_is_not_allowed() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let controller = ca.controller(answer);
    let config = ca.admin(home.path(), &[&controller.address.to_string()], 30);
    controller.revoke(&config);
    assert_exit(&run(home.path(), &config, "version"), 5);
}

#[test]
fn a_busy_controller_is_tried_again_until_the_timeout() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let controller = ca.busy_controller(3, answer);
    let config = ca.admin(home.path(), &[&controller.address.to_string()], 30);
    assert_exit(&run(home.path(), &config, "version"), 0);

    let controller = ca.busy_controller(usize::MAX, answer);
    let config = ca.admin(home.path(), &[&controller.address.to_string()], 30);
    let started = Instant::now();
    let output = run(home.path(), &config, "version --timeout 700ms");
    assert!(started.elapsed() >= Duration::from_millis(700));
    assert_exit(&output, 6);
    let error = text(&output.stderr);
    for part in ["after 700ms", &controller.address.to_string(), "refused", "--timeout"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn an_unreachable_controller_is_named_with_every_address() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    // Bound, and never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.local_addr().unwrap().to_string(), "[::1]:9".to_owned()];
    let config = ca.admin(home.path(), &[&addresses[0], &addresses[1]], 30);
    let started = Instant::now();
    let output = run(home.path(), &config, "status --timeout 600ms");
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_exit(&output, 6);
    let error = text(&output.stderr);
    assert!(error.starts_with("error: ") && error.contains("hint: "), "{error}");
    for address in &addresses {
        assert!(error.contains(address), "{error}");
    }
    assert_eq!(output.stdout, b"");
}

#[test]
fn a_new_certificate_is_not_renewed_however_short_its_lifetime() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let controller = ca.controller(answer);
    let config = ca.admin(home.path(), &[&controller.address.to_string()], 3);
    let output = run(home.path(), &config, "version -o json");
    assert_exit(&output, 0);
    assert_eq!(text(&output.stderr), "", "the fake would refuse");
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["controller"], "9.9.9");
}

#[test]
fn a_context_that_others_can_read_is_refused() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let config = ca.admin(home.path(), &["127.0.0.1:9"], 30);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let output = run(home.path(), &config, "edge list");
    assert_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(error.contains(&format!("chmod 600 {}", config.display())), "{error}");
}

#[test]
fn without_a_terminal_a_question_is_a_usage_error_before_any_call() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let config = ca.admin(home.path(), &["127.0.0.1:9"], 30);
    let started = Instant::now();
    let output = run(home.path(), &config, "edge del aws-hk -n prod");
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("--yes"));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_flag_beats_its_variable() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let controller = ca.controller(answer);
    let config = ca.admin(home.path(), &[&controller.address.to_string()], 30);
    let with = |arguments: &[&str]| {
        let mut command = cfctl(home.path());
        command.env("CFCTL_CONFIG", &config).env("CFCTL_OUTPUT", "json").env("CFCTL_YES", "1");
        command.env("CFCTL_NAMESPACE", "prod").args(arguments).output().unwrap()
    };
    assert!(with(&["version"]).stdout.starts_with(b"{"));
    assert!(with(&["version", "-o", "table"]).stdout.starts_with(b"cfctl"));
    // `CFCTL_YES` is the consent of a script.
    let output = with(&["route", "del", "pods"]);
    assert_exit(&output, 0);
    assert!(text(&output.stdout).contains("\"namespace\": \"prod\""));
    let mut command = cfctl(home.path());
    let wrong = command.env("CFCTL_YES", "perhaps").arg("status").output().unwrap();
    assert_exit(&wrong, 2);
}

#[test]
fn an_empty_variable_is_ignored() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let controller = ca.controller(answer);
    let config = ca.admin(home.path(), &[&controller.address.to_string()], 30);
    let run = |line: &str| {
        let mut command = cfctl(home.path());
        for flag in ["OUTPUT", "YES", "NAMESPACE", "TIMEOUT", "VERBOSE", "CIDR", "ENDPOINT"] {
            command.env(format!("CFCTL_{flag}"), "");
        }
        command.arg("--config").arg(&config).args(line.split(' ')).output().unwrap()
    };
    assert!(run("version").stdout.starts_with(b"cfctl"), "a table");
    // The controller's answer: the command line was right.
    assert_exit(&run("edge add a -n prod"), 4);
    let mut command = cfctl(home.path());
    let output = command.env("CFCTL_CONFIG", "").arg("version").output().unwrap();
    assert_exit(&output, 0);
}

#[test]
fn contexts_are_imported_chosen_and_removed() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let file = ca.admin(home.path(), &["127.0.0.1:9"], 30);
    let line = |line: &str| cfctl(home.path()).args(line.split_whitespace()).output().unwrap();
    let import = format!("context import {}", file.display());

    assert_exit(&line("edge list"), 1);
    assert_exit(&line(&import), 0);
    assert_exit(&line(&import), 4);
    assert_exit(&line(&format!("{import} --rename lab")), 0);
    assert_exit(&line("context use nowhere"), 3);
    assert_exit(&line("context use lab"), 0);
    assert_exit(&line("context set --default-namespace prod"), 0);

    let table = line("context list");
    let rows: Vec<Vec<&str>> =
        text(&table.stdout).lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..5], ["-", "corp", "corp", "alice", "-"]);
    assert_eq!(rows[1][..5], ["*", "lab", "corp", "alice", "prod"]);
    let shown = line("context show lab -o json");
    assert!(!text(&shown.stdout).contains("PRIVATE KEY"));
    assert_exit(&line("context del lab"), 0);
    assert_exit(&line("context show"), 1);

    let saved = home.path().join(".config/cframe/config.toml");
    assert_eq!(fs::metadata(saved).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_context_can_be_imported_from_a_pipe() {
    let (ca, home) = (TestCa::new(), tempfile::tempdir().unwrap());
    let file = ca.admin(home.path(), &["127.0.0.1:9"], 30);
    let mut command = cfctl(home.path());
    command.args(["context", "import", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(file).unwrap()).unwrap();
    assert_exit(&child.wait_with_output().unwrap(), 0);
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let mut command = cfctl(home.path());
    command.args(["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(output.stderr, b"");
}

#[test]
fn help_version_and_completion_need_no_context() {
    let home = tempfile::tempdir().unwrap();
    for line in [
        "--help",
        "-V",
        "version",
        "version --client -o yaml",
        "edge add --help",
        "completion bash",
        "completion zsh",
        "completion fish",
    ] {
        let output = cfctl(home.path()).args(line.split_whitespace()).output().unwrap();
        assert_exit(&output, 0);
        assert!(!output.stdout.is_empty(), "{line}");
    }
    assert_exit(&cfctl(home.path()).arg("frobnicate").output().unwrap(), 2);
}
