//! Gateways whose clock is wrong.

use std::process::Command;

use cframe_testbed::{Host, Process};
use serde_json::Value;

use crate::lab::{DeployedPair, TIMEOUT, shared, wait_for};

const PRELOAD: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A gateway whose clock is off by `offset`, such as `-2d`.
struct Off<'a> {
    pair: &'a DeployedPair,
    offset: &'a str,
}

impl Off<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let edge = &self.pair.dialer;
        let mut command = self.host().command(self.pair.lab.deployment.programs().edge());
        command.args(args).env("CFRAME_EDGE_DATA_DIR", edge.dir());
        // The monotonic clock stays: it is the wall clock that is wrong.
        command.env("LD_PRELOAD", PRELOAD).env("FAKETIME", self.offset);
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }

    fn host(&self) -> &Host {
        self.pair.dialer.host()
    }

    fn start(&self) -> Process {
        self.host().spawn("edge-with-another-clock", self.command(&["run"])).unwrap()
    }

    fn problems(&self) -> Vec<Value> {
        let output = self.command(&["status", "-o", "json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["problems"].as_array().cloned().unwrap_or_default()
    }
}

#[test]
fn a_wrong_clock_is_named_once_as_the_cause() {
    let mut pair = DeployedPair::start("clock", shared());
    pair.dialer.stop().unwrap();
    // The last one is a clock without a battery: 1970.
    let since_1970 = unix_time() - 86_400;
    let at_1970 = format!("-{since_1970}");
    for (offset, direction) in [("-2d", "behind"), ("+60d", "ahead"), (&at_1970, "behind")] {
        let off = Off { pair: &pair, offset };
        let mut process = off.start();
        let is_clock = |problem: &Value| problem["code"] == "clock-wrong";
        wait_for(TIMEOUT, || off.problems().iter().any(is_clock)).unwrap_or_else(|error| {
            panic!("{offset}: {error:#}: {:#?}\n{}", off.problems(), process.log_tail(20))
        });
        let problems = off.problems();
        let clock = problems.iter().find(|problem| is_clock(problem)).unwrap();
        let text = clock["text"].as_str().unwrap();
        assert!(text.contains(direction), "{offset}: {text}");
        let codes: Vec<&str> =
            problems.iter().filter_map(|problem| problem["code"].as_str()).collect();
        let consequences = ["certificate-invalid", "no-controller", "cut-off"];
        assert!(!codes.iter().any(|code| consequences.contains(code)), "{offset}: {codes:?}");
        let doctor = off.command(&["doctor"]).output().unwrap();
        let printed = String::from_utf8(doctor.stdout).unwrap();
        assert_eq!(doctor.status.code(), Some(7), "{printed}");
        assert!(printed.contains("set the clock"), "{printed}");
        for riddle in ["error 45", "UNIX", "os error"] {
            assert!(!printed.contains(riddle), "{printed}");
        }
        process.terminate(TIMEOUT).unwrap();
    }
    // The right clock again: nothing has to be joined again.
    pair.dialer.start().unwrap();
    pair.dialer.wait_links(1).unwrap();
    pair.dialer.wait_synced().unwrap();
}

fn unix_time() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn joining_with_a_wrong_clock_names_the_clock_and_spends_no_token() {
    let pair = DeployedPair::start("clockjoin", shared());
    let deployment = &pair.lab.deployment;
    let add = ["edge", "add", "late", "-n", "prod", "--cidr", "10.99.0.0/24"];
    deployment.ctl_ok(&add).unwrap();
    let token = deployment.token("prod", "late").unwrap();
    let dir = pair.lab.net.path("late");
    let at_1970 = format!("-{}", unix_time() - 86_400);
    for offset in ["-2d", "+60d", &at_1970] {
        let off = Off { pair: &pair, offset };
        let mut join = off.command(&["join", &token]);
        let output = join.env("CFRAME_EDGE_DATA_DIR", &dir).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{offset}: {said}");
        assert!(said.contains("set the clock"), "{offset}: {said}");
        for riddle in ["error 45", "UNIX", "os error"] {
            assert!(!said.contains(riddle), "{offset}: {said}");
        }
    }
    let host = pair.dialer.host();
    deployment.edge_program(host, &dir, &["join", &token]).unwrap().success().unwrap();
}
