//! The demonstration as a whole. Needs root, or user namespaces, and the release programs; fails without.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use cframe_testbed::{list, privilege};
use rustix::process::{Pid, Signal, kill_process};

/// Starts it and has `look` see each line; returns whether it was content, and whether its lab is gone.
fn demo(mut look: impl FnMut(Pid, &str)) -> (bool, bool) {
    privilege::ensure().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .arg("demo")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
        println!("{line}");
        look(Pid::from_child(&child), &line);
    }
    let good = child.wait().unwrap().success();
    (good, list().unwrap().iter().all(|lab| lab.owner != child.id()))
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
