//! A store that somebody damages, and a disk without room: nothing is acknowledged that is lost, and all say so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cframe_testbed::deployment::{Deployment, Output};
use rustix::process::Signal;

use crate::hosts::support::{MeshStatus, SHOWN, UNHEALTHY, wait_healthy, wait_problem};
use crate::lab::{DeployedPair, MS, TestLab, none_lost, ping, shared, wait_for, within};

/// Each waits for the next check of the store.
fn check_refused(deployment: &Deployment, what: &str, reason: &str) {
    let refused = deployment.ctl(&["namespace", "add", "lost"]).unwrap();
    assert_ne!(refused.code, 0, "{what}: {refused}");
    assert!(refused.stderr.contains(reason), "{what}: {reason:?}: {refused}");
    let mut ready = (200, String::new());
    let unready = || {
        ready = deployment.controller().http("/readyz").unwrap();
        ready.0 == 503
    };
    within(&format!("{what} → not ready"), wait_for(SHOWN, unready).unwrap(), SHOWN);
    assert!(ready.1.contains(reason), "{what}: {}", ready.1);
    let found = wait_problem(deployment, "store-problem", "", SHOWN);
    assert!(found["text"].as_str().unwrap().contains(reason), "{what}: {found}");
    assert_eq!(MeshStatus::read(&deployment.operator()).unwrap().code, UNHEALTHY);
}

fn check_good(deployment: &Deployment, what: &str) {
    within(&format!("{what}, end → healthy"), wait_healthy(deployment, SHOWN), SHOWN);
    let (code, _) = deployment.controller().http("/readyz").unwrap();
    assert_eq!(code, 200, "{what}");
    deployment.ctl_ok(&["namespace", "add", "kept"]).unwrap();
    deployment.ctl_ok(&["namespace", "del", "kept", "--yes"]).unwrap();
}

#[test]
fn a_store_that_is_damaged_under_its_controller_takes_no_writes_until_it_is_whole() {
    let mut lab = TestLab::start("damage", shared());
    let store = lab.deployment.controller_dir().join("store.redb");
    let (older, saved) = (lab.net.path("older"), lab.net.path("saved"));
    fs::copy(&store, &older).unwrap();
    lab.deployment.ctl_ok(&["namespace", "add", "newer"]).unwrap();
    let older = fs::read(older).unwrap();
    let cut = older[..older.len() / 2].to_vec();
    for (what, content, reason) in [
        ("emptied", Vec::new(), "it is empty"),
        ("garbage", b"garbage".repeat(20_000), "it is damaged"),
        ("cut", cut, "it is damaged"),
        ("an older copy", older, "an older copy"),
    ] {
        // It writes nothing between the copy and the damage.
        let process = lab.deployment.controller_mut().process_mut();
        process.signal(Signal::STOP).unwrap();
        fs::copy(&store, &saved).unwrap();
        fs::write(&store, &content).unwrap();
        process.signal(Signal::CONT).unwrap();
        check_refused(&lab.deployment, what, reason);
        fs::copy(&saved, &store).unwrap();
        check_good(&lab.deployment, what);
    }
    lab.deployment.controller_mut().restart().unwrap();
    lab.deployment.ctl_ok(&["namespace", "show", "newer"]).unwrap();
}

#[test]
fn a_store_that_was_deleted_is_saved_from_memory_and_restored() {
    let mut lab = TestLab::start("deleted", shared());
    let store = lab.deployment.controller_dir().join("store.redb");
    fs::remove_file(&store).unwrap();
    check_refused(&lab.deployment, "deleted", "was deleted");
    // As the message says.
    let backup = lab.net.path("mesh.backup");
    let backup = backup.to_str().unwrap();
    let run = |lab: &TestLab, args: &[&str]| lab.deployment.controller_program(args).unwrap();
    run(&lab, &["backup", "--out", backup]).success().unwrap();
    lab.deployment.controller_mut().process_mut().terminate(SHOWN).unwrap();
    run(&lab, &["restore", "--in", backup]).success().unwrap();
    lab.deployment.controller_mut().start().unwrap();
    check_good(&lab.deployment, "restored");
    lab.deployment.ctl_ok(&["namespace", "show", "prod"]).unwrap();
}

#[test]
fn a_controller_does_not_start_on_a_store_that_is_none_and_says_what_to_do() {
    let mut lab = TestLab::start("nostore", shared());
    let dir = lab.deployment.controller_dir();
    let store = dir.join("store.redb");
    lab.deployment.controller_mut().process_mut().terminate(SHOWN).unwrap();
    let whole = fs::read(&store).unwrap();
    let start = |what: &str, parts: &[&str]| {
        let ended: Output = lab.deployment.controller_program(&["run"]).unwrap();
        assert_ne!(ended.code, 0, "{what}");
        for part in parts {
            assert!(ended.stderr.contains(part), "{what}: {part:?}: {ended}");
        }
        assert!(!ended.stderr.contains("panicked"), "{what}: {ended}");
    };
    let restore = "restore --in";
    fs::write(&store, "").unwrap();
    start("empty", &["it is empty", restore]);
    assert_eq!(fs::metadata(&store).unwrap().len(), 0, "it was made into a new store");
    fs::write(&store, b"garbage".repeat(20_000)).unwrap();
    start("garbage", &["it is damaged", restore]);
    fs::write(&store, &whole[..whole.len() / 2]).unwrap();
    start("cut", &["it is damaged", restore]);
    let mut hole = whole.clone();
    let half = hole.len() / 2;
    hole[4096..half].fill(0);
    fs::write(&store, &hole).unwrap();
    start("a hole", &["it is damaged", restore]);
    fs::remove_file(&store).unwrap();
    fs::create_dir(&store).unwrap();
    start("a directory", &["store.redb", "directory"]);
    fs::remove_dir(&store).unwrap();
    start("gone", &["there is no mesh in", restore]);
    // As root every file can be read; a mode that others can read is refused elsewhere.
    fs::write(&store, &whole).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o600)).unwrap();
    lab.deployment.controller_mut().start().unwrap();
    check_good(&lab.deployment, "whole");
}

/// Takes all room of the file system, and gives it back when it is dropped.
struct Filler(PathBuf);

impl Filler {
    fn fill(dir: &Path) -> Self {
        let path = dir.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        let zeros = vec![0; 4096];
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_full_disk_at_the_controller_is_told_and_over_as_soon_as_there_is_room() {
    let mut pair = DeployedPair::start("ctlfull", shared());
    let dir = pair.lab.deployment.restart_controller_on_small_disk(16 << 10).unwrap();
    wait_healthy(&pair.lab.deployment, SHOWN);
    let pings = vec![ping(&pair.dialer, &pair.acceptor, 10 * MS)];
    let deployment = &pair.lab.deployment;
    for round in ["first", "second"] {
        let filler = Filler::fill(&dir);
        let found = wait_problem(deployment, "store-problem", "", SHOWN);
        let text = found["text"].as_str().unwrap();
        assert!(text.contains("full") || text.contains("No space"), "{text}");
        let (code, reason) = deployment.controller().http("/readyz").unwrap();
        assert_eq!(code, 503, "{reason}");
        assert!(reason.contains("full") || reason.contains("No space"), "{reason}");
        // What fits into pages that the file has already is still taken, and what is acknowledged is kept.
        let mut kept = Vec::new();
        let refused = (0..200).find_map(|number| {
            let name = format!("{round}-{number}");
            let added = deployment.ctl(&["namespace", "add", &name]).unwrap();
            if added.code == 0 {
                kept.push(name);
            }
            (added.code != 0).then_some(added)
        });
        let refused = refused.expect("200 namespaces on a full disk");
        assert!(refused.stderr.contains("full") || refused.stderr.contains("space"), "{refused}");
        drop(filler);
        check_good(deployment, &format!("full disk, {round}"));
        for name in kept {
            deployment.ctl_ok(&["namespace", "show", &name]).unwrap();
        }
    }
    none_lost("pings lost while the controller's disk was full", pings);
    for edge in [&mut pair.dialer, &mut pair.acceptor] {
        edge.wait_synced().unwrap();
    }
}
