use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use ipnet::IpNet;

use crate::capture::Capture;
use crate::netns::Netns;
use crate::ping::Ping;
use crate::process::Process;

/// A host of the lab: a network namespace with addresses. Clones are handles of the same host.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    netns: Netns,
    addresses: Addresses,
    dir: Arc<Path>,
    outlives_us: bool,
}

/// Shared, because an uplink's address can change.
pub(crate) type Addresses = Arc<Mutex<Vec<IpNet>>>;

impl Host {
    pub(crate) fn new(name: String, netns: Netns, dir: Arc<Path>, outlives_us: bool) -> Self {
        Self { name, netns, addresses: Addresses::default(), dir, outlives_us }
    }

    pub(crate) fn with_addresses(self, addresses: Addresses) -> Self {
        Self { addresses, ..self }
    }

    /// The host's name in the lab, such as `aws-hk-edge`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The lab's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Addresses with prefix lengths: of an edge or workload those inside the site, of a host on the
    /// internet or a NAT the public ones.
    pub fn addresses(&self) -> Vec<IpNet> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first of [`Self::addresses`].
    pub fn address(&self) -> IpAddr {
        self.addresses().first().expect("each host has an address").addr()
    }

    pub fn v4(&self) -> Option<Ipv4Addr> {
        first_v4(&self.addresses())
    }

    pub fn v6(&self) -> Option<Ipv6Addr> {
        first_v6(&self.addresses())
    }

    /// A command that runs on this host; see [`Netns::command`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.netns.command(program)
    }

    /// Starts a command made by [`Self::command`]. Its output goes to `log/<name>.log` in the lab's
    /// directory.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(name, command, &self.dir.join("log"), self.outlives_us)
            .with_context(|| format!("on {}", self.name))
    }

    /// Runs a closure on a thread in this host's namespace; see [`Netns::enter`].
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.enter(work)
    }

    /// Runs lines of `ip` commands, such as `route add …`.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.netns.ip(lines)
    }

    /// Sets `net.<key>`, such as `ipv4.conf.all.rp_filter`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.netns.sysctls(&[(&key.replace('.', "/"), value)])
    }

    /// A series of echo requests to `target`, which still has to be started.
    pub fn ping(&self, target: impl Into<IpAddr>) -> Ping {
        Ping::new(self.netns.clone(), target.into())
    }

    /// Captures all packets of an interface; `eth0` is the one to the internet.
    pub fn capture(&self, interface: &str) -> Result<Capture> {
        Capture::start(&self.netns, &self.dir, interface)
    }
}

pub(crate) fn first_v4(addresses: &[IpNet]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|net| match net {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    })
}

pub(crate) fn first_v6(addresses: &[IpNet]) -> Option<Ipv6Addr> {
    addresses.iter().find_map(|net| match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(net.addr()),
    })
}
