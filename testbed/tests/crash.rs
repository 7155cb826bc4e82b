//! A controller that is killed under writes. Needs the release programs, and no privileges.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use cframe_testbed::crash::{Options, run};

#[test]
fn of_25_kills_under_writes_none_loses_or_tears_a_change() {
    let options = Options { kills: 25, seed: None, flags: Vec::new() };
    let report = run(&options).unwrap();
    println!("{report}");
    assert!(report.acknowledged() > 100, "{report}");
    assert!(report.starts()[2] < Duration::from_secs(1), "{report}");
}
