//! What the emulator is told and answers: a line of JSON each, over a Unix socket in the lab's
//! directory.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{WanCounters, WanPath};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Sets the conditions of each (from, to), at once.
    Set { pairs: Vec<(String, String)>, path: WanPath },
    /// Has the kernel forward between them again.
    Clear { pairs: Vec<(String, String)> },
    /// Changes nothing.
    Show,
    /// The links' addresses changed.
    Refresh,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done(Vec<WanStatus>),
    Refused(String),
}

/// One direction that the emulator has conditions for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WanStatus {
    /// The link that packets come from.
    pub from: String,
    /// The link that they go to.
    pub to: String,
    /// What was asked for.
    pub path: WanPath,
    /// What happened.
    pub counters: WanCounters,
}

/// The links of a lab by name, as the lab writes them down for the emulator.
pub(crate) type Links = BTreeMap<String, Link>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Its policy routing table in the router.
    pub(crate) table: u32,
    pub(crate) prefixes: Vec<IpNet>,
    /// The router's addresses on it.
    pub(crate) gateways: Vec<IpAddr>,
}

pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join("wan.sock")
}

fn links_file(dir: &Path) -> PathBuf {
    dir.join("links.json")
}

pub(crate) fn read_links(dir: &Path) -> Result<Links> {
    let path = links_file(dir);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// Replaces the file, so that nobody reads half of it.
pub(crate) fn write_links(dir: &Path, links: &Links) -> Result<()> {
    let (path, new) = (links_file(dir), dir.join("links.json.new"));
    let text = serde_json::to_string(links).context("writing links as JSON")?;
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("writing {}", path.display()))
}
