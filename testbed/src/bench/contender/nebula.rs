use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Contender, Gateways, MTU, Package, terminate_all};
use crate::bench::sites::Gateway;
use crate::process::Process;
use crate::tool;

const PORT: u16 = 4242;
const INNER: [&str; 2] = ["10.92.0.1", "10.92.0.2"];

/// nebula with its defaults (AES-256-GCM): two hosts with each other's address configured.
pub(super) struct Nebula {
    program: PathBuf,
    sides: [(Gateway, PathBuf); 2],
    running: Vec<Process>,
}

impl Nebula {
    pub(super) fn set_up(
        daemon: &Package,
        cert: &Path,
        dir: &Path,
        gateways: Gateways,
    ) -> Result<Self> {
        let run = |args: &[&str]| tool::run(Command::new(cert).args(args).current_dir(dir), "");
        run(&["ca", "-name", "bench"])?;
        let mut configs = Vec::new();
        for (index, (here, there)) in
            [("left", &gateways.right), ("right", &gateways.left)].into_iter().enumerate()
        {
            run(&["sign", "-name", here, "-networks", &format!("{}/24", INNER[index])])?;
            let config = dir.join(format!("{here}.yml"));
            let text = configuration(dir, here, INNER[1 - index], there);
            fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
            configs.push(config);
        }
        let [left, right] = [configs.remove(0), configs.remove(0)];
        let sides = [(gateways.left, left), (gateways.right, right)];
        Ok(Self { program: daemon.program.clone(), sides, running: Vec::new() })
    }
}

fn configuration(dir: &Path, here: &str, there: &str, peer: &Gateway) -> String {
    let dir = dir.display();
    format!(
        "pki: {{ca: {dir}/ca.crt, cert: {dir}/{here}.crt, key: {dir}/{here}.key}}\n\
         static_host_map: {{\"{there}\": [\"{}:{PORT}\"]}}\n\
         lighthouse: {{am_lighthouse: false, hosts: []}}\n\
         listen: {{host: 0.0.0.0, port: {PORT}}}\n\
         tun: {{dev: nebula0, mtu: {MTU}}}\n\
         firewall:\n  outbound: [{{port: any, proto: any, host: any}}]\n  inbound: [{{port: any, proto: any, host: any}}]\n",
        peer.public
    )
}

impl Contender for Nebula {
    fn start(&mut self) -> Result<()> {
        for (gateway, config) in &self.sides {
            let mut command = gateway.host.command(&self.program);
            command.arg("-config").arg(config);
            self.running
                .push(gateway.host.spawn(&format!("nebula-{}", gateway.host.name()), command)?);
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        terminate_all(self.running.drain(..))
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        ([10, 92, 0, 1].into(), [10, 92, 0, 2].into())
    }

    fn processes(&self) -> Vec<&Process> {
        self.running.iter().collect()
    }
}
