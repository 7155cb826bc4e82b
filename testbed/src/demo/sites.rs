use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::deployment::Deployment;
use crate::host::Host;
use crate::lab::{Lab, Nat, PublicHost, Site, ThreeSites};
use crate::programs::Programs;

/// Name of the demo's mesh.
pub(super) const MESH: &str = "demo";

#[derive(Clone, Debug)]
pub(super) struct DemoSites {
    /// Directory for the programs' files.
    pub(super) dir: PathBuf,
    pub(super) controller: PublicHost,
    pub(super) sz: Site,
    pub(super) hk: Site,
    pub(super) idc: Site,
    /// Behind a NAT, with IPv4 and IPv6 inside.
    pub(super) office: Site,
    /// In a network behind aws-hk that has no route in the mesh at first.
    pub(super) pods: Host,
}

impl DemoSites {
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

    /// The commands that enter and remove a lab that stays up.
    pub(super) fn lab_commands(&self, lab: &Lab) -> Result<String> {
        let ctl = Programs::locate()?.ctl();
        let testbed = std::env::current_exe().context("finding this program's own path")?;
        let operator = Deployment::operator_dir(MESH, &self.dir);
        let mut text = String::from("\n== The lab stays up. To enter it:\n");
        let mut line = |name: &str, command: &str| writeln!(text, "  {name:<16} {command}");
        let mut hosts: Vec<&Host> = vec![&self.controller];
        for site in [&self.sz, &self.hk, &self.idc, &self.office] {
            hosts.extend([site.edge(), site.workload()]);
        }
        hosts.push(&self.pods);
        for host in hosts {
            line(host.name(), &lab.shell_command(host))?;
        }
        let enter = format!("ip netns exec {}", self.controller.netns().name());
        let (config, ctl) = (operator.display(), ctl.display());
        line("cfctl", &format!("{enter} env XDG_CONFIG_HOME={config} {ctl} status"))?;
        line("logs", &self.dir.join("log").display().to_string())?;
        line("to remove it", &format!("{} lab down {}", testbed.display(), lab.id()))?;
        Ok(text.trim_end().to_owned())
    }
}
