//! A short run of the benchmark command. Fails without root or user namespaces, and without the programs.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cframe_testbed::{lab, privilege};
use serde_json::Value;

fn bench(dir: &Path, args: &[&str]) -> bool {
    let status = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("bench")
        .args(args)
        .arg("--store")
        .arg(dir)
        .arg("--out")
        .arg(dir.join("benchmarks.md"))
        .stdout(Stdio::null())
        .status();
    status.unwrap().success()
}

#[test]
fn a_quick_run_measures_stores_reports_and_leaves_nothing_behind() {
    privilege::ensure().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let before = lab::list().unwrap();
    assert!(bench(dir.path(), &["--quick", "--contenders", "none,cframe", "--only", "tcp1"]));
    assert!(lab::list().unwrap().iter().all(|lab| lab.name != "bench" || before.contains(lab)));

    let stored = fs::read(dir.path().join("results.json")).unwrap();
    let stored: Value = serde_json::from_slice(&stored).unwrap();
    for (contender, metric) in [("none", "mbit"), ("cframe", "mbit"), ("cframe", "cpu_s_per_gb")] {
        let value = &stored["results"]["tcp1"][contender]["rounds"][0][metric];
        assert!(value.as_f64().unwrap() > 0.0, "{contender}: {stored:#}");
    }
    let report = fs::read_to_string(dir.path().join("benchmarks.md")).unwrap();
    assert!(report.contains("### TCP, 1 flow (`tcp1`)"), "{report}");

    // The report depends only on the stored results.
    assert!(bench(dir.path(), &["--report-only"]));
    assert_eq!(fs::read_to_string(dir.path().join("benchmarks.md")).unwrap(), report);
}

#[test]
fn unknown_names_are_refused_before_anything_is_created() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!bench(dir.path(), &["--only", "tcp9"]));
    assert!(!bench(dir.path(), &["--contenders", "wireguard"]));
    assert!(!dir.path().join("results.json").exists());
}
