//! The lab's side of WAN emulation: for the process that owns the lab, and for other processes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::internet::Internet;
use super::{Uplink, guard};
use crate::netns::Netns;
use crate::wan::{self, Request, WanPath, WanStatus};

/// A handle of the path between two links, from [`Uplink::wan_to`]. Dropping it does not change the
/// path's conditions.
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

    /// Replaces the conditions of both directions. The delay is one way, so a round trip takes twice
    /// as long.
    pub fn set(&self, path: &WanPath) -> Result<()> {
        self.request(Request::Set { pairs: self.both(), path: path.clone() })
    }

    /// Replaces the conditions of packets from the first link to the second.
    pub fn set_one_way(&self, path: &WanPath) -> Result<()> {
        self.request(Request::Set { pairs: vec![self.there()], path: path.clone() })
    }

    /// Removes all conditions, in both directions. Packets on their way still arrive at their due
    /// times.
    pub fn clear(&self) -> Result<()> {
        self.request(Request::Clear { pairs: self.both() })
    }

    /// Counters of packets from the first link to the second since the conditions were set; an error
    /// if there are no conditions.
    pub fn status(&self) -> Result<WanStatus> {
        let statuses = self.internet.send_wan_request(&Request::Show)?;
        statuses
            .into_iter()
            .find(|status| (&status.from, &status.to) == (&self.from, &self.to))
            .with_context(|| format!("no conditions from {} to {}: call set()", self.from, self.to))
    }

    fn request(&self, request: Request) -> Result<()> {
        self.internet
            .send_wan_request(&request)
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
    /// The path from this link to another link of the lab.
    pub fn wan_to(&self, other: &Self) -> Wan {
        Wan::new(self.internet.clone(), &self.name, &other.name)
    }
}

/// A lab of another process.
#[derive(Debug)]
pub(crate) struct ExistingLab {
    id: String,
    dir: PathBuf,
}

impl ExistingLab {
    /// Finds the lab with this ID, or the only one there is.
    pub(crate) fn find(id: Option<&str>) -> Result<Self> {
        let mut labs = guard::list()?;
        labs.retain(|lab| id.map_or(lab.kept || lab.owned, |id| lab.id == id));
        let ids: Vec<_> = labs.iter().map(|lab| lab.id.as_str()).collect();
        match (ids[..].as_ref(), id) {
            ([one], _) => Ok(Self { id: (*one).to_owned(), dir: std::env::temp_dir().join(one) }),
            ([], None) => bail!("no lab is up: `testbed lab up` creates one"),
            ([], Some(id)) => bail!("there is no lab {id}: `testbed lab list` shows all labs"),
            _ => bail!("several labs are up: choose one of {} with --lab", ids.join(", ")),
        }
    }

    /// Sends a request to its WAN emulator. If none runs, one is started, which stays until the lab
    /// is removed.
    pub(crate) fn send_wan_request(&self, request: &Request) -> Result<Vec<WanStatus>> {
        let router = || Netns::open(&format!("{}-internet", self.id), true);
        Ok(wan::send_or_start(&self.dir, request, router)?.0)
    }

    /// Sends a request to its WAN emulator; `None` if none runs.
    pub(crate) fn try_wan_request(&self, request: &Request) -> Result<Option<Vec<WanStatus>>> {
        wan::send_request(&self.dir, request)
    }
}
