use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Contender, Gateways, MTU, terminate_all};
use crate::bench::sites::Gateway;
use crate::process::Process;

const PORT: &str = "4789";
const DEVICE: &str = "limit";
const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 95, 0, 1), Ipv4Addr::new(10, 95, 0, 2)];

/// `testbed aead-loop` at each end: the cost of the design without QUIC.
pub(super) struct Limit {
    program: PathBuf,
    gateways: Gateways,
    running: Vec<Process>,
}

impl Limit {
    pub(super) fn set_up(gateways: Gateways) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program's own path")?;
        Ok(Self { program, gateways, running: Vec::new() })
    }

    fn spawn(&mut self, side: u8) -> Result<()> {
        let (here, there) = match side {
            0 => (&self.gateways.left, &self.gateways.right),
            _ => (&self.gateways.right, &self.gateways.left),
        };
        let mut command = here.host.command(&self.program);
        command.args(["aead-loop", "--device", DEVICE, "--mtu", &MTU.to_string()]);
        command.args(["--port", PORT, "--peer", &format!("{}:{PORT}", there.public)]);
        command.args(["--side", &side.to_string()]);
        let process = here.host.spawn(&format!("aead-loop-{}", here.host.name()), command)?;
        configure(here, INNER[usize::from(side)], process).map(|process| self.running.push(process))
    }
}

fn configure(gateway: &Gateway, inner: Ipv4Addr, mut process: Process) -> Result<Process> {
    process.wait_for_log("ready", Duration::from_secs(5))?;
    gateway.host.ip(&format!("addr replace {inner}/24 dev {DEVICE}"))?;
    Ok(process)
}

impl Contender for Limit {
    fn start(&mut self) -> Result<()> {
        self.spawn(0)?;
        self.spawn(1)
    }

    fn stop(&mut self) -> Result<()> {
        terminate_all(self.running.drain(..))
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        (INNER[0].into(), INNER[1].into())
    }

    fn processes(&self) -> Vec<&Process> {
        self.running.iter().collect()
    }
}
