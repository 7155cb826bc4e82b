use std::net::IpAddr;

use anyhow::Result;

use super::Contender;
use crate::bench::sites::BenchSites;
use crate::deployment::{Deployment, Edge};
use crate::lab::Lab;
use crate::process::Process;

/// cframe's programs: an idle controller, and two edges that start with their state on disk.
pub(super) struct Cframe {
    left: Edge,
    right: Edge,
    _deployment: Deployment,
}

impl Cframe {
    pub(super) fn set_up(lab: &Lab, sites: &BenchSites) -> Result<Self> {
        let deployment = Deployment::start(lab, &sites.controller)?;
        deployment.ctl_ok(&["namespace", "add", "prod"])?;
        let mut left = deployment.edge(&sites.left).enrol()?;
        let mut right = deployment.edge(&sites.right).enrol()?;
        for edge in [&mut left, &mut right] {
            edge.wait_synced()?;
            edge.wait_links(1)?;
        }
        let mut this = Self { left, right, _deployment: deployment };
        this.stop()?;
        Ok(this)
    }
}

impl Contender for Cframe {
    fn start(&mut self) -> Result<()> {
        self.left.start()?;
        self.right.start()
    }

    fn stop(&mut self) -> Result<()> {
        self.left.stop()?;
        self.right.stop()
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        (self.left.host().address(), self.right.host().address())
    }

    fn processes(&self) -> Vec<&Process> {
        vec![self.left.process(), self.right.process()]
    }
}
