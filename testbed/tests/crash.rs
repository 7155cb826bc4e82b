//! A controller that is killed under writes, on either store. Needs the programs and etcd, and no privileges.

#![allow(clippy::unwrap_used, reason = "a test")]

use cframe_testbed::crash::{Options, Report, START_BOUND, run};
use cframe_testbed::etcd::EtcdMember;

#[test]
fn of_25_kills_under_writes_none_loses_or_tears_a_change() {
    let report = kill(25, &[]);
    assert!(report.acknowledged() > 100, "{report}");
}

#[test]
fn of_10_kills_under_writes_to_etcd_none_loses_or_tears_a_change() {
    let dir = tempfile::Builder::new().prefix("cf.crash-etcd.").tempdir().unwrap();
    let etcd = EtcdMember::on_loopback(dir.path()).unwrap();
    let report = kill(10, &["--store", "etcd", "--etcd-endpoint", etcd.endpoint()]);
    assert!(report.acknowledged() > 40, "{report}");
    let keys = ["get", "--prefix", "/cframe/", "--keys-only", "--command-timeout", "10s"];
    let keys = etcd.etcdctl(&keys).output().unwrap();
    assert!(keys.status.success(), "{keys:?}");
    let keys = String::from_utf8(keys.stdout).unwrap();
    let keys = keys.lines().filter(|line| line.starts_with("/cframe/")).count();
    assert!(keys > 40, "the controller did not write to this etcd");
}

fn kill(kills: u32, flags: &[&str]) -> Report {
    let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    let report = run(&Options { kills, seed: None, flags }).unwrap();
    println!("{report}");
    assert!(report.starts()[2] < START_BOUND, "{report}");
    report
}
