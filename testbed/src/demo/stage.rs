use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::deployment::Deployment;
use crate::{Host, Lab, Nat, Programs, PublicHost, Site, ThreeSites};

/// The machines.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// Where the programs' files go.
    pub(super) dir: PathBuf,
    pub(super) controller: PublicHost,
    pub(super) sz: Site,
    pub(super) hk: Site,
    pub(super) idc: Site,
    /// Behind a NAT, with both families inside.
    pub(super) office: Site,
    /// Behind aws-hk, and unknown to the mesh at first.
    pub(super) pods: Host,
}

impl Stage {
    pub(super) fn build(lab: &mut Lab) -> Result<Self> {
        let ThreeSites { controller, aliyun_sz: sz, aws_hk: hk, idc } =
            ThreeSites::build(lab, None)?;
        let office = lab
            .site("office")
            .public("198.18.1.7/24")
            .nat(Nat::masquerade())
            .inner("192.168.40.0/24")
            .inner("fd00:40::/64")
            .build()?;
        let pods = lab.add_network(&hk, "10.244.0.0/16")?;
        Ok(Self { dir: lab.dir().to_owned(), controller, sz, hk, idc, office, pods })
    }

    /// How to get into a lab that stays, and rid of it.
    pub(super) fn guide(&self, lab: &Lab) -> Result<String> {
        let ctl = Programs::locate()?.ctl();
        let own = std::env::current_exe().context("finding this program's own path")?;
        let operator = Deployment::operator_dir(MESH, &self.dir);
        let mut text = String::from("\n== The lab stays. To enter it:\n");
        let mut line = |what: &str, how: &str| writeln!(text, "  {what:<16} {how}");
        let mut hosts: Vec<&Host> = vec![&self.controller];
        for site in [&self.sz, &self.hk, &self.idc, &self.office] {
            hosts.extend([site.edge(), site.workload()]);
        }
        hosts.push(&self.pods);
        for host in hosts {
            line(host.name(), &lab.how_to_enter(host))?;
        }
        let enter = format!("ip netns exec {}", self.controller.netns().name());
        let (config, ctl) = (operator.display(), ctl.display());
        line("cfctl", &format!("{enter} env XDG_CONFIG_HOME={config} {ctl} status"))?;
        line("logs", &self.dir.join("log").display().to_string())?;
        line("to remove it", &format!("{} lab down {}", own.display(), lab.id()))?;
        Ok(text.trim_end().to_owned())
    }
}

/// The demo's mesh.
pub(super) const MESH: &str = "demo";
