//! Those who compete: each with its files and its two programs, one at either end.

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

use super::arena::{Arena, End};
use super::peers::{Peer, Peers};
use crate::{Lab, Process};

/// The MTU of every tunnel.
pub(super) const MTU: u16 = 1400;

/// How long a tunnel may take to carry its first packet.
const PATIENCE: Duration = Duration::from_secs(15);

/// All of them, in the order of the tables.
pub(super) const NAMES: [&str; 8] =
    ["cframe", "wireguard-go", "quincy", "nebula", "openvpn", "limit", "none", "none-full"];

/// Who runs unless it is said otherwise.
pub(super) const USUAL: [&str; 6] =
    ["cframe", "wireguard-go", "quincy", "nebula", "openvpn", "none"];

/// A tunnel that can be started and stopped, again and again.
pub(super) trait Contender: Send {
    /// Starts both ends and returns at once; until the first answer more may pass.
    fn start(&mut self) -> Result<()>;

    /// Stops both ends.
    fn stop(&mut self) -> Result<()>;

    /// The addresses inside the tunnel: left, right.
    fn addresses(&self) -> (IpAddr, IpAddr);

    /// The programs that carry the traffic.
    fn processes(&self) -> Vec<&Process>;

    /// What TCP is limited to where no tunnel does so.
    fn mss(&self) -> Option<u32> {
        None
    }
}

/// The programs of one contender, fetched before there is a lab.
pub(super) enum Kit {
    Cframe,
    WireguardGo(Peer),
    Quincy { client: Peer, server: Peer },
    Nebula { daemon: Peer, cert: PathBuf },
    Openvpn(Peer),
    Limit,
    None { mss: Option<u32> },
}

impl Kit {
    /// Gets what `name` needs.
    pub(super) fn fetch(name: &str, peers: &Peers) -> Result<Self> {
        Ok(match name {
            "cframe" => Self::Cframe,
            "wireguard-go" => Self::WireguardGo(peers.newest(name, "usr/bin/wireguard-go")?),
            "quincy" => Self::Quincy {
                client: peers.built("quincy-client", "^3")?,
                server: peers.built("quincy-server", "^3")?,
            },
            "nebula" => {
                let daemon = peers.newest(name, "usr/bin/nebula")?;
                let cert = daemon.program.with_file_name("nebula-cert");
                Self::Nebula { daemon, cert }
            }
            "openvpn" => Self::Openvpn(Peers::installed(name, "openvpn")?),
            "limit" => Self::Limit,
            "none" => Self::None { mss: Some(u32::from(MTU) - 40) },
            "none-full" => Self::None { mss: None },
            _ => bail!("no contender {name:?}: there are {}", NAMES.join(", ")),
        })
    }

    /// For the table of versions.
    pub(super) fn version(&self, commit: &str) -> String {
        match self {
            Self::Cframe => commit.to_owned(),
            Self::WireguardGo(peer) | Self::Openvpn(peer) => peer.version.clone(),
            Self::Quincy { client: peer, .. } | Self::Nebula { daemon: peer, .. } => {
                peer.version.clone()
            }
            Self::Limit => {
                format!("{commit}: TUN and UDP offloads, one AES-128-GCM per packet, nothing else")
            }
            Self::None { mss: Some(mss) } => format!("no tunnel, TCP with an MSS of {mss}"),
            Self::None { mss: None } => "no tunnel, the veth's own MSS".to_owned(),
        }
    }

    /// Makes its files in the lab.
    pub(super) fn set_up(self, lab: &Lab, arena: &Arena) -> Result<Box<dyn Contender>> {
        let ends = Ends { left: arena.left()?, right: arena.right()? };
        Ok(match self {
            Self::Cframe => Box::new(cframe::Cframe::set_up(lab, arena)?),
            Self::WireguardGo(peer) => Box::new(wireguard_go::WireguardGo::set_up(peer, ends)?),
            Self::Quincy { client, server } => {
                let dir = directory(lab, "quincy")?;
                Box::new(quincy::Quincy::set_up(&client, &server, &dir, ends)?)
            }
            Self::Nebula { daemon, cert } => {
                let dir = directory(lab, "nebula")?;
                Box::new(nebula::Nebula::set_up(&daemon, &cert, &dir, ends)?)
            }
            Self::Openvpn(peer) => {
                let dir = directory(lab, "openvpn")?;
                Box::new(openvpn::Openvpn::set_up(&peer, &dir, ends)?)
            }
            Self::Limit => Box::new(limit::Limit::set_up(ends)?),
            Self::None { mss } => Box::new(none::None::new(&ends, mss)),
        })
    }
}

/// Both gateways.
#[derive(Clone, Debug)]
struct Ends {
    left: End,
    right: End,
}

fn directory(lab: &Lab, name: &str) -> Result<PathBuf> {
    let dir = lab.path(name);
    fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// Waits until the tunnel carries packets.
pub(super) fn wait_up(contender: &dyn Contender, left: &End) -> Result<Duration> {
    let (_, right) = contender.addresses();
    let answered = left.host.ping(right).interval(Duration::from_millis(5)).first_reply(PATIENCE);
    answered.map_err(|error| {
        let logs: Vec<_> = contender.processes().iter().map(|end| end.log_tail(5)).collect();
        error.context(logs.join("\n"))
    })
}
