//! The tunnels that are compared: each with its files, and a program at each end.

mod cframe;
mod limit;
mod nebula;
mod none;
mod openvpn;
mod quincy;
mod wireguard_go;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::packages::{Package, Packages};
use super::sites::{BenchSites, Gateway};
use crate::lab::Lab;
use crate::process::Process;

/// The MTU of every tunnel.
pub(super) const MTU: u16 = 1400;

/// Timeout for the first packet through a tunnel.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// All contenders, in the order of the tables.
pub(super) const NAMES: [&str; 8] =
    ["cframe", "wireguard-go", "quincy", "nebula", "openvpn", "limit", "none", "none-full"];

/// The contenders that are measured by default.
pub(super) const DEFAULT: [&str; 6] =
    ["cframe", "wireguard-go", "quincy", "nebula", "openvpn", "none"];

/// A tunnel that can be started and stopped repeatedly.
pub(super) trait Contender: Send {
    /// Starts both ends. It may return before the tunnel carries packets.
    fn start(&mut self) -> Result<()>;

    fn stop(&mut self) -> Result<()>;

    /// The addresses inside the tunnel: (left, right).
    fn addresses(&self) -> (IpAddr, IpAddr);

    /// The programs that carry the traffic; none without a tunnel.
    fn processes(&self) -> Vec<&Process>;

    /// The MSS to set for TCP flows.
    fn mss(&self) -> Option<u32> {
        None
    }
}

/// A contender's programs, which are fetched before the lab is created.
pub(super) enum FetchedContender {
    Cframe,
    WireguardGo(Package),
    Quincy { client: Package, server: Package },
    Nebula { daemon: Package, cert: PathBuf },
    Openvpn(Package),
    Limit,
    None { mss: Option<u32> },
}

impl FetchedContender {
    pub(super) fn fetch(name: &str, packages: &Packages) -> Result<Self> {
        Ok(match name {
            "cframe" => Self::Cframe,
            "wireguard-go" => {
                Self::WireguardGo(packages.unpack_debian(name, "usr/bin/wireguard-go")?)
            }
            "quincy" => Self::Quincy {
                client: packages.build_crate("quincy-client", "^3")?,
                server: packages.build_crate("quincy-server", "^3")?,
            },
            "nebula" => {
                let daemon = packages.unpack_debian(name, "usr/bin/nebula")?;
                let cert = daemon.program.with_file_name("nebula-cert");
                Self::Nebula { daemon, cert }
            }
            "openvpn" => Self::Openvpn(Packages::install(name, "openvpn")?),
            "limit" => Self::Limit,
            "none" => Self::None { mss: Some(u32::from(MTU) - 40) },
            "none-full" => Self::None { mss: None },
            _ => bail!("there is no contender {name:?}"),
        })
    }

    /// The version for the report. `commit` is that of cframe.
    pub(super) fn version(&self, commit: &str) -> String {
        match self {
            Self::Cframe => commit.to_owned(),
            Self::WireguardGo(package)
            | Self::Openvpn(package)
            | Self::Quincy { client: package, .. }
            | Self::Nebula { daemon: package, .. } => package.version.clone(),
            Self::Limit => {
                format!("{commit}: TUN and UDP offloads, one AES-128-GCM per packet, nothing else")
            }
            Self::None { mss: Some(mss) } => format!("no tunnel, TCP with an MSS of {mss}"),
            Self::None { mss: None } => "no tunnel, the veth's own MSS".to_owned(),
        }
    }

    /// Creates the contender's files in the lab.
    pub(super) fn set_up(self, lab: &Lab, sites: &BenchSites) -> Result<Box<dyn Contender>> {
        let gateways = Gateways { left: sites.left()?, right: sites.right()? };
        Ok(match self {
            Self::Cframe => Box::new(cframe::Cframe::set_up(lab, sites)?),
            Self::WireguardGo(package) => {
                Box::new(wireguard_go::WireguardGo::set_up(package, gateways)?)
            }
            Self::Quincy { client, server } => {
                let dir = directory(lab, "quincy")?;
                Box::new(quincy::Quincy::set_up(&client, &server, &dir, gateways)?)
            }
            Self::Nebula { daemon, cert } => {
                let dir = directory(lab, "nebula")?;
                Box::new(nebula::Nebula::set_up(&daemon, &cert, &dir, gateways)?)
            }
            Self::Openvpn(package) => {
                let dir = directory(lab, "openvpn")?;
                Box::new(openvpn::Openvpn::set_up(&package, &dir, gateways)?)
            }
            Self::Limit => Box::new(limit::Limit::set_up(gateways)?),
            Self::None { mss } => Box::new(none::None::new(&gateways, mss)),
        })
    }
}

#[derive(Clone, Debug)]
struct Gateways {
    left: Gateway,
    right: Gateway,
}

fn terminate_all(processes: impl IntoIterator<Item = Process>) -> Result<()> {
    processes.into_iter().try_for_each(|mut process| process.terminate(Duration::from_secs(5)))
}

fn directory(lab: &Lab, name: &str) -> Result<PathBuf> {
    let dir = lab.path(name);
    fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

/// Waits until the tunnel carries packets, and returns the time that it took.
pub(super) fn wait_up(contender: &dyn Contender, left: &Gateway) -> Result<Duration> {
    let (_, right) = contender.addresses();
    let answered =
        left.host.ping(right).interval(Duration::from_millis(5)).first_reply(START_TIMEOUT);
    answered.map_err(|error| {
        let logs: Vec<_> =
            contender.processes().iter().map(|process| process.log_tail(5)).collect();
        error.context(logs.join("\n"))
    })
}
