use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Contender, Gateways, MTU, Package, terminate_all};
use crate::bench::identity::{Files, Identity};
use crate::bench::sites::Gateway;
use crate::process::Process;

const PORT: &str = "1194";

/// OpenVPN point to point over UDP with TLS, and its data channel in user space.
pub(super) struct Openvpn {
    program: PathBuf,
    sides: [Side; 2],
    running: Vec<Process>,
}

struct Side {
    gateway: Gateway,
    files: Files,
    args: Vec<String>,
}

impl Openvpn {
    pub(super) fn set_up(package: &Package, dir: &Path, gateways: Gateways) -> Result<Self> {
        let (left, right) = (Identity::new("left")?, Identity::new("right")?);
        let side =
            |name: &str, identity: &Identity, args: &[&str], gateway: Gateway| -> Result<Side> {
                let args = args.iter().map(|arg| (*arg).to_owned()).collect();
                Ok(Side { gateway, files: identity.write(dir, name)?, args })
            };
        let to_right = gateways.right.public.to_string();
        let sides = [
            side(
                "left",
                &left,
                &[
                    "--tls-client",
                    "--remote",
                    &to_right,
                    PORT,
                    "--nobind",
                    "--ifconfig",
                    "10.94.0.1",
                    "10.94.0.2",
                    "--peer-fingerprint",
                    &right.fingerprint(),
                ],
                gateways.left,
            )?,
            side(
                "right",
                &right,
                &[
                    "--tls-server",
                    "--dh",
                    "none",
                    "--lport",
                    PORT,
                    "--ifconfig",
                    "10.94.0.2",
                    "10.94.0.1",
                    "--peer-fingerprint",
                    &left.fingerprint(),
                ],
                gateways.right,
            )?,
        ];
        Ok(Self { program: package.program.clone(), sides, running: Vec::new() })
    }
}

impl Contender for Openvpn {
    fn start(&mut self) -> Result<()> {
        for side in &self.sides {
            let mut command = side.gateway.host.command(&self.program);
            arguments(&mut command, side);
            let name = format!("openvpn-{}", side.gateway.host.name());
            self.running.push(side.gateway.host.spawn(&name, command)?);
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        terminate_all(self.running.drain(..))
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        ([10, 94, 0, 1].into(), [10, 94, 0, 2].into())
    }

    fn processes(&self) -> Vec<&Process> {
        self.running.iter().collect()
    }
}

fn arguments(command: &mut Command, side: &Side) {
    command
        .args(["--dev", "tun", "--proto", "udp4", "--disable-dco", "--verb", "2"])
        .args(["--data-ciphers", "AES-128-GCM", "--tun-mtu", &MTU.to_string()])
        .args(["--ping", "3", "--connect-retry", "1"])
        .arg("--cert")
        .arg(&side.files.certificate)
        .arg("--key")
        .arg(&side.files.key)
        .args(&side.args);
}
