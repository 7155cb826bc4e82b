//! What is left of a lab after its owner has ended. Fails without root or user namespaces.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cframe_testbed::lab::{self, FoundLab};
use cframe_testbed::{privilege, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A running `testbed lab up --hold`, and the ID of its lab.
struct Held {
    child: Child,
    id: String,
}

impl Held {
    fn start() -> Self {
        privilege::ensure().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_testbed"))
            .args(["lab", "up", "--hold", "--nat", "held"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut id = None;
        for line in lines.map(Result::unwrap) {
            if let Some(found) = line.strip_prefix("Lab ") {
                id = Some(found.to_owned());
            }
            if line.starts_with("Remove it") {
                break;
            }
        }
        let held = Self { child, id: id.unwrap() };
        assert!(held.found().unwrap().namespaces.len() > 8);
        held
    }

    fn found(&self) -> Option<FoundLab> {
        lab::list().unwrap().into_iter().find(|lab| lab.id == self.id)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The guard is the only child with the name `sh`.
    fn guard(&self) -> Pid {
        let parent = format!("PPid:\t{}\n", self.child.id());
        let mut pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let ours = status.starts_with("Name:\tsh\n") && status.contains(&parent);
            ours.then(|| entry.file_name().into_string().ok()?.parse().ok())?
        });
        let guard = pids.next().and_then(Pid::from_raw).unwrap();
        assert_eq!(pids.next(), None);
        guard
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn nothing_is_left_after_a_signal() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut held = Held::start();
        held.signal(signal);
        assert!(held.child.wait().unwrap().success());
        assert_eq!(held.found(), None, "{signal:?}");
    }
}

#[test]
fn nothing_is_left_after_a_kill() {
    let mut held = Held::start();
    held.signal(Signal::KILL);
    held.child.wait().unwrap();
    let took = wait_until(TIMEOUT, || held.found().is_none()).unwrap();
    println!("removed {took:.0?} after the kill");
}

#[test]
fn a_lab_whose_owner_and_guard_were_killed_is_removed_by_the_next_one() {
    let mut held = Held::start();
    kill_process(held.guard(), Signal::KILL).unwrap();
    held.signal(Signal::KILL);
    held.child.wait().unwrap();
    let left = held.found().unwrap();
    assert!(!left.owned && left.namespaces.len() > 8);
    // Another lab of this machine may have removed it already.
    lab::remove_stale().unwrap();
    assert_eq!(held.found(), None);
}

#[test]
fn a_kept_lab_stays_until_it_is_removed() {
    privilege::ensure().unwrap();
    let testbed =
        |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_testbed")).args(args).output().unwrap();
    if privilege::is_inside() {
        let refused = testbed(&["lab", "up"]);
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("without root a lab can't be kept")
        );
        return;
    }
    let up = testbed(&["lab", "up", "kept"]);
    let text = String::from_utf8_lossy(&up.stdout).into_owned();
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let id = text.lines().find_map(|line| line.strip_prefix("Lab ")).unwrap();
    lab::remove_stale().unwrap();
    let lab = lab::list().unwrap().into_iter().find(|lab| lab.id == id).unwrap();
    assert!(lab.kept && !lab.owned && lab.namespaces.len() == 8, "{lab:?}");
    assert!(testbed(&["lab", "down", id]).status.success());
    assert!(lab::list().unwrap().iter().all(|lab| lab.id != id));
}
