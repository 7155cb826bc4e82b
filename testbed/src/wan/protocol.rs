//! The emulator's protocol: a request and an answer, each a line of JSON, over a Unix socket in the
//! lab's directory.

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
    /// Sets the conditions of directions, given as (from, to).
    Set { pairs: Vec<(String, String)>, path: WanPath },
    /// Removes the conditions of directions, given as (from, to).
    Clear { pairs: Vec<(String, String)> },
    /// Returns the conditions and counters.
    Show,
    /// Applies changed addresses of links.
    Refresh,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done(Vec<WanStatus>),
    Refused(String),
}

/// Conditions and counters of one direction between two links.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WanStatus {
    pub from: String,
    pub to: String,
    pub path: WanPath,
    pub counters: WanCounters,
}

/// The links of a lab by name.
pub(crate) type Links = BTreeMap<String, Link>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Its policy routing table in the router.
    pub(crate) table: u32,
    pub(crate) prefixes: Vec<IpNet>,
    /// The router's addresses on the link.
    pub(crate) gateways: Vec<IpAddr>,
}

pub(crate) fn socket_path(dir: &Path) -> PathBuf {
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

/// Replaces the file atomically.
pub(crate) fn write_links(dir: &Path, links: &Links) -> Result<()> {
    let (path, new) = (links_file(dir), dir.join("links.json.new"));
    let text = serde_json::to_string(links).context("encoding links")?;
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("writing {}", path.display()))
}
