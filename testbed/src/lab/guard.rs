//! Removing labs: the guard process, which waits for the end of the lab's owner, and the search for
//! labs on this machine.

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

/// Removes a lab after its stdin ends. It is a shell script because the guard has to outlive this
/// process, and a test's executable can't be started as another program.
const REMOVE: &str = include_str!("remove.sh");

#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
}

impl Guard {
    pub(super) fn start(id: &LabId, dir: &Path) -> Result<Self> {
        let mut command = Command::new("sh");
        // Its own process group, so that a signal to the owner's group or terminal doesn't end it.
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

    /// Closes the guard's stdin and waits until it has removed the lab.
    pub(super) fn remove_lab(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().context("waiting for the lab's guard")?;
        Ok(())
    }
}

/// A lab found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLab {
    /// The prefix of the names of its namespaces.
    pub id: String,
    pub name: String,
    /// Process ID of its creator.
    pub owner: u32,
    /// Whether the owner still runs.
    pub owned: bool,
    /// Whether it stays after its owner has ended.
    pub kept: bool,
    /// Names of its namespaces.
    pub namespaces: Vec<String>,
}

/// All labs of this user, in use or stale.
pub fn list() -> Result<Vec<FoundLab>> {
    let mut labs: BTreeMap<LabId, Vec<String>> = BTreeMap::new();
    for name in names_in(Path::new(netns::DIR))? {
        if let Some(id) = LabId::of_namespace(&name) {
            labs.entry(id).or_default().push(name);
        }
    }
    for name in names_in(&std::env::temp_dir())? {
        if let Ok(id) = name.parse::<LabId>()
            && is_own_directory(&directory(&id))
        {
            labs.entry(id).or_default();
        }
    }
    Ok(labs.into_iter().map(|(id, namespaces)| found(id, namespaces)).collect())
}

/// Removes labs whose owner and guard have both been killed, and returns their IDs.
pub fn remove_stale() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for lab in list()? {
        if !lab.owned && !lab.kept {
            remove_found(&lab)?;
            removed.push(lab.id);
        }
    }
    Ok(removed)
}

/// Removes a kept lab with everything that runs in it.
pub fn remove(id: &str) -> Result<()> {
    let labs = list()?;
    let Some(lab) = labs.iter().find(|lab| lab.id == id) else {
        bail!("there is no lab {id}: `testbed lab list` shows all labs");
    };
    ensure!(
        lab.kept || !lab.owned,
        "lab {id} belongs to the running process {owner}: `kill {owner}` ends both",
        owner = lab.owner
    );
    remove_found(lab)
}

pub(super) fn namespaces_of(id: &LabId) -> Result<Vec<String>> {
    let mut names = names_in(Path::new(netns::DIR))?;
    names.retain(|name| LabId::of_namespace(name).as_ref() == Some(id));
    Ok(names)
}

pub(super) fn create_dir(id: &LabId, name: &str) -> Result<PathBuf> {
    let dir = directory(id);
    for dir in [&dir, &dir.join("log")] {
        DirBuilder::new()
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("creating {}", dir.display()))?;
    }
    fs::write(dir.join("name"), name).with_context(|| format!("writing in {}", dir.display()))?;
    Ok(dir)
}

fn directory(id: &LabId) -> PathBuf {
    std::env::temp_dir().join(id.to_string())
}

/// Other users may create directories of such names too: those are ignored.
fn is_own_directory(dir: &Path) -> bool {
    fs::symlink_metadata(dir)
        .is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
}

fn found(id: LabId, mut namespaces: Vec<String>) -> FoundLab {
    let dir = directory(&id);
    namespaces.sort();
    FoundLab {
        id: id.to_string(),
        name: fs::read_to_string(dir.join("name")).unwrap_or_default(),
        owner: id.owner(),
        owned: id.is_owned(),
        kept: id.is_kept(),
        namespaces,
    }
}

fn remove_found(lab: &FoundLab) -> Result<()> {
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
