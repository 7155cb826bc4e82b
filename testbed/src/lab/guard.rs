//! Removing labs: the guard process that waits for the owner's end, and what is found of labs whose
//! guard is gone too.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::owner::LabId;
use crate::{netns, tool};

/// Removes the lab once its stdin ends. It is a shell, since it has to outlive this process, and a
/// test's own executable can't be started as something else.
const REMOVE: &str = include_str!("remove.sh");

#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
}

impl Guard {
    pub(super) fn start(id: &LabId, dir: &Path) -> Result<Self> {
        let mut command = Command::new("sh");
        // A group of its own, so that what ends the owner by its group or terminal doesn't end the
        // guard.
        command
            .args(["-c", REMOVE, "guard", &id.to_string()])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0);
        let child = command.spawn().map_err(|error| tool::cannot_start(&command, error))?;
        Ok(Self { child })
    }

    /// Has it remove the lab now.
    pub(super) fn finish(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().context("waiting for the lab's guard")?;
        Ok(())
    }
}

/// A lab as found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What its namespaces' names begin with.
    pub id: String,
    /// The name that it was made with.
    pub name: String,
    /// The process that made it.
    pub owner: u32,
    /// Whether that process still runs.
    pub owned: bool,
    /// Whether it is to stay without its owner.
    pub kept: bool,
    /// The names of its namespaces.
    pub namespaces: Vec<String>,
}

/// All labs of this user, living or left behind.
pub fn list() -> Result<Vec<Found>> {
    let mut labs: BTreeMap<LabId, Vec<String>> = BTreeMap::new();
    for name in names_in(Path::new(netns::DIR))? {
        if let Some(id) = LabId::of_namespace(&name) {
            labs.entry(id).or_default().push(name);
        }
    }
    for name in names_in(&std::env::temp_dir())? {
        if let Ok(id) = name.parse::<LabId>()
            && is_ours(&directory(&id))
        {
            labs.entry(id).or_default();
        }
    }
    Ok(labs.into_iter().map(|(id, namespaces)| found(id, namespaces)).collect())
}

/// Removes labs whose owner has died without a guard to remove them, and returns their ids.
pub fn clean() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for lab in list()? {
        if !lab.owned && !lab.kept {
            remove(&lab)?;
            removed.push(lab.id);
        }
    }
    Ok(removed)
}

/// Removes a kept lab with everything that runs in it.
pub fn down(id: &str) -> Result<()> {
    let labs = list()?;
    let Some(lab) = labs.iter().find(|lab| lab.id == id) else {
        bail!("no lab {id}: `testbed lab list` shows those there are");
    };
    ensure!(
        lab.kept || !lab.owned,
        "lab {id} belongs to the running process {owner}: `kill {owner}` ends both",
        owner = lab.owner
    );
    remove(lab)
}

/// The namespaces of one lab that exist.
pub(super) fn namespaces_of(id: &LabId) -> Result<Vec<String>> {
    let mut names = names_in(Path::new(netns::DIR))?;
    names.retain(|name| LabId::of_namespace(name).as_ref() == Some(id));
    Ok(names)
}

/// Makes the directory of a new lab.
pub(super) fn make_dir(id: &LabId, name: &str) -> Result<PathBuf> {
    let dir = directory(id);
    for dir in [&dir, &dir.join("log")] {
        DirBuilder::new()
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("making {}", dir.display()))?;
    }
    fs::write(dir.join("name"), name).with_context(|| format!("writing in {}", dir.display()))?;
    Ok(dir)
}

fn directory(id: &LabId) -> PathBuf {
    std::env::temp_dir().join(id.to_string())
}

/// Anybody may make a directory of that name; only this user's are looked at.
fn is_ours(dir: &Path) -> bool {
    fs::symlink_metadata(dir)
        .is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
}

fn found(id: LabId, mut namespaces: Vec<String>) -> Found {
    let dir = directory(&id);
    namespaces.sort();
    Found {
        id: id.to_string(),
        name: fs::read_to_string(dir.join("name")).unwrap_or_default(),
        owner: id.owner(),
        owned: id.is_owned(),
        kept: id.is_kept(),
        namespaces,
    }
}

fn remove(lab: &Found) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", REMOVE, "clean", &lab.id]).arg(std::env::temp_dir().join(&lab.id));
    tool::run(&mut shell, "").with_context(|| format!("removing lab {}", lab.id))?;
    Ok(())
}

fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", dir.display()))?,
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
