//! A lab's WAN emulator: for the process that owns the lab, and for others.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::internet::Internet;
use super::{Uplink, guard};
use crate::Netns;
use crate::wan::{self, Request, WanPath, WanStatus};

/// The path between two links; made by [`Uplink::wan_to`]. It has the conditions that were last set,
/// whatever becomes of this handle.
#[derive(Clone, Debug)]
pub struct Wan {
    internet: Arc<Internet>,
    from: String,
    to: String,
}

impl Wan {
    pub(super) fn new(internet: Arc<Internet>, from: &str, to: &str) -> Self {
        Self { internet, from: from.to_owned(), to: to.to_owned() }
    }

    /// Sets the conditions in both directions, in place of those before: the delay is one way, so a
    /// round trip takes twice as long.
    pub fn set(&self, path: &WanPath) -> Result<()> {
        self.request(Request::Set { pairs: self.both(), path: path.clone() })
    }

    /// Sets the conditions of packets from the first link to the second.
    pub fn set_one_way(&self, path: &WanPath) -> Result<()> {
        self.request(Request::Set { pairs: vec![self.there()], path: path.clone() })
    }

    /// Lets everything through again, in both directions. What is on its way still comes when it
    /// would have.
    pub fn clear(&self) -> Result<()> {
        self.request(Request::Clear { pairs: self.both() })
    }

    /// What happened to packets from the first link to the second since conditions were set; an
    /// error if there are none.
    pub fn status(&self) -> Result<WanStatus> {
        let statuses = self.internet.wan(&Request::Show)?;
        statuses
            .into_iter()
            .find(|status| (&status.from, &status.to) == (&self.from, &self.to))
            .with_context(|| format!("no conditions from {} to {}: set() some", self.from, self.to))
    }

    fn request(&self, request: Request) -> Result<()> {
        self.internet
            .wan(&request)
            .with_context(|| format!("the WAN between {} and {}", self.from, self.to))?;
        Ok(())
    }

    fn there(&self) -> (String, String) {
        (self.from.clone(), self.to.clone())
    }

    fn both(&self) -> Vec<(String, String)> {
        vec![self.there(), (self.to.clone(), self.from.clone())]
    }
}

impl Uplink {
    /// The path from here to another link of the lab.
    pub fn wan_to(&self, other: &Self) -> Wan {
        Wan::new(self.internet.clone(), &self.name, &other.name)
    }
}

/// A lab that another process made.
#[derive(Debug)]
pub(crate) struct Standing {
    id: String,
    dir: PathBuf,
}

impl Standing {
    /// The lab of that id, or the only one.
    pub(crate) fn find(id: Option<&str>) -> Result<Self> {
        let mut labs = guard::list()?;
        labs.retain(|lab| id.map_or(lab.kept || lab.owned, |id| lab.id == id));
        let ids: Vec<_> = labs.iter().map(|lab| lab.id.as_str()).collect();
        match (ids[..].as_ref(), id) {
            ([one], _) => Ok(Self { id: (*one).to_owned(), dir: std::env::temp_dir().join(one) }),
            ([], None) => bail!("no lab is up: `testbed lab up` makes one"),
            ([], Some(id)) => bail!("no lab {id}: `testbed lab list` shows those there are"),
            _ => bail!("several labs are up: choose one of {} with --lab", ids.join(", ")),
        }
    }

    /// Asks its emulator, which is started if need be, and stays until the lab is removed.
    pub(crate) fn wan(&self, request: &Request) -> Result<Vec<WanStatus>> {
        if let Some(answer) = self.wan_if_running(request)? {
            return Ok(answer);
        }
        let router = Netns::open(&format!("{}-internet", self.id), true)?;
        drop(wan::start(&self.dir, &router, true)?);
        self.wan_if_running(request)?.context("the WAN emulator ended: see log/wan.log")
    }

    pub(crate) fn wan_if_running(&self, request: &Request) -> Result<Option<Vec<WanStatus>>> {
        wan::ask(&self.dir, request)
    }
}
