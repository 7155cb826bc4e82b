use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{sys, tool};

/// Directory of `ip netns` with a file for each namespace.
pub(crate) const DIR: &str = "/run/netns";

/// A network namespace with a name, as created by `ip netns add`.
#[derive(Clone, Debug)]
pub struct Netns {
    name: Arc<str>,
    fd: Arc<OwnedFd>,
    outlives_us: bool,
}

impl Netns {
    /// Creates namespaces, in the order of `names`, with loopback up and the settings of a lab's
    /// hosts.
    pub(crate) fn create(names: &[String], outlives_us: bool) -> Result<Vec<Self>> {
        let batch: String = names.iter().map(|n| format!("netns add {n}\n")).collect();
        tool::run(Command::new("ip").args(["-batch", "-"]), &batch)?;
        names
            .iter()
            .map(|name| {
                let netns = Self::open(name, outlives_us)?;
                netns.sysctls(DEFAULTS)?;
                netns.ip("link set lo up")?;
                Ok(netns)
            })
            .collect()
    }

    pub(crate) fn open(name: &str, outlives_us: bool) -> Result<Self> {
        let path = format!("{DIR}/{name}");
        let file = File::open(&path).with_context(|| format!("opening {path}"))?;
        Ok(Self { name: name.into(), fd: Arc::new(file.into()), outlives_us })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether programs in this namespace go on running after this process has ended.
    pub(crate) fn outlives_us(&self) -> bool {
        self.outlives_us
    }

    /// A command that will run in this namespace. The child is killed when the *thread* that
    /// starts it ends, unless it is started by [`Host::spawn`](crate::Host::spawn).
    ///
    /// `/sys` is that of the initial namespace: only `/proc/sys/net` and `/proc/net` are this
    /// namespace's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::start_in(&mut command, self.fd.clone(), !self.outlives_us);
        command
    }

    /// Runs `work` on a thread inside this namespace. Sockets opened there stay in the namespace,
    /// also when other threads use them.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("entering namespace {}", self.name))?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs lines of `ip` commands, without the leading `ip`.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.batch(&["-batch", "-"], lines)
    }

    /// Runs lines of `ip -6` commands.
    pub(crate) fn ip6(&self, lines: &str) -> Result<()> {
        self.batch(&["-6", "-batch", "-"], lines)
    }

    fn batch(&self, args: &[&str], lines: &str) -> Result<()> {
        tool::run(self.command("ip").args(args), &format!("{lines}\n"))
            .with_context(|| format!("in namespace {}", self.name))?;
        Ok(())
    }

    /// Loads a ruleset in nft's syntax, atomically.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        tool::run(self.command("nft").args(["-f", "-"]), ruleset)
            .with_context(|| format!("in namespace {}", self.name))?;
        Ok(())
    }

    /// Runs lines of `tc` commands, without the leading `tc`.
    pub(crate) fn tc(&self, lines: &str) -> Result<()> {
        tool::run(self.command("tc").args(["-batch", "-"]), lines)
            .with_context(|| format!("in namespace {}", self.name))?;
        Ok(())
    }

    /// Writes files below `/proc/sys/net`, given as (path, value).
    pub(crate) fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            settings.iter().try_for_each(|(key, value)| {
                std::fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("setting net/{key} to {value:?} in {}", self.name))
            })
        })?
    }

    /// Switches segmentation offloads of `interface` on or off. Without them it sends no
    /// super-packets.
    pub fn set_offloads(&self, interface: &str, on: bool) -> Result<()> {
        ensure!(!interface.starts_with('-'), "not an interface: {interface:?}");
        let word = if on { "on" } else { "off" };
        let mut ethtool = self.command("ethtool");
        ethtool.args(["-K", interface]);
        for feature in ["tso", "gso", "tx-udp-segmentation"] {
            ethtool.args([feature, word]);
        }
        tool::run(&mut ethtool, "")?;
        Ok(())
    }
}

/// Settings that must not depend on the machine: a new namespace copies its IPv4 settings from the
/// initial one. Without duplicate address detection, IPv6 addresses are usable at once.
const DEFAULTS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// Additional settings of namespaces that forward. ICMP errors are not rate-limited, because tests
/// expect each of them.
pub(crate) const FORWARDING: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];
