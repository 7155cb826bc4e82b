//! The demonstration as a whole. Fails without root or user namespaces, and without the programs.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use cframe_testbed::{lab, privilege};
use rustix::process::{Pid, Signal, kill_process};

/// Runs the demonstration, with `on_line` called for each line of output. Returns whether it succeeded, and whether its
/// lab is removed.
fn demo(mut on_line: impl FnMut(Pid, &str)) -> (bool, bool) {
    privilege::ensure().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("demo")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
        println!("{line}");
        on_line(Pid::from_child(&child), &line);
    }
    let success = child.wait().unwrap().success();
    (success, lab::list().unwrap().iter().all(|lab| lab.owner != child.id()))
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    for moment in ["== A controller", "== Pings"] {
        let outcome = demo(|pid, line| {
            if line.starts_with(moment) {
                kill_process(pid, Signal::INT).unwrap();
            }
        });
        assert_eq!(outcome, (false, true), "{moment}");
    }
}
