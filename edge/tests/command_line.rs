//! The program's command line and its environment.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use cframe_pki::{
    Fingerprint,
    token::{JoinToken, TokenId, TokenSecret},
};

fn cframe_edge(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cframe-edge"));
    command.env_clear().envs(environment.iter().copied()).args(arguments);
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// `join` with a good token, into a directory that can't be made: it ends after
/// it has read its configuration and before it sends anything.
fn join(directory: &Path, environment: &[(&str, &str)]) -> String {
    let file = directory.join("file");
    fs::write(&file, "").unwrap();
    let (pin, id) = (Fingerprint::from_bytes([1; 32]), TokenId::generate().unwrap());
    let secret = TokenSecret::generate().unwrap();
    let token = JoinToken::new(vec!["127.0.0.1:9".into()], pin, id, secret).unwrap().expose();
    let data = file.join("data");
    let (code, error) =
        cframe_edge(&["--data-dir", data.to_str().unwrap(), "join", &token], environment);
    assert_eq!(code, Some(1), "{error}");
    error
}

#[test]
fn what_is_exported_for_cfctl_does_not_reach_join() {
    let directory = tempfile::tempdir().unwrap();
    let others = [
        ("CFCTL_CONFIG", "/nowhere/cfctl.toml"),
        ("CFRAME_CONFIG", "/nowhere/cframe.toml"),
        ("CFRAME_CONTROLLER_CONFIG", "/nowhere/controller.toml"),
    ];
    let error = join(directory.path(), &others);
    assert!(!error.contains("/nowhere/"), "{error}");
    assert!(error.contains(directory.path().to_str().unwrap()), "{error}");

    let error = join(directory.path(), &[("CFRAME_EDGE_CONFIG", "/nowhere/edge.toml")]);
    assert!(error.contains("/nowhere/edge.toml"), "{error}");
}

#[test]
fn an_empty_variable_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["CONFIG", "INSTANCE", "LISTEN", "REPLACE"];
    let names = flags.map(|flag| format!("CFRAME_EDGE_{flag}"));
    let empty: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let error = join(directory.path(), &empty);
    assert!(error.contains(directory.path().to_str().unwrap()), "{error}");

    let (code, error) = cframe_edge(&["join"], &[("CFRAME_EDGE_TOKEN", "")]);
    assert_eq!(code, Some(2), "the token is missing: {error}");
    let (code, error) = cframe_edge(&["join"], &[("CFRAME_EDGE_TOKEN", "cfj1.x")]);
    assert_eq!(code, Some(1), "it is malformed: {error}");
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cframe-edge"));
    command.args(["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}
