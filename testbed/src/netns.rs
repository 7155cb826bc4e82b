use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{sys, tool};

/// Where `ip netns` keeps the names.
pub(crate) const DIR: &str = "/run/netns";

/// A named network namespace, as `ip netns` knows them.
#[derive(Clone, Debug)]
pub struct Netns {
    name: Arc<str>,
    fd: Arc<OwnedFd>,
    outlives_us: bool,
}

impl Netns {
    /// Makes the namespaces, with loopback up and the settings that every host of a lab has; in
    /// order of `names`.
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

    /// A namespace that is there.
    pub(crate) fn open(name: &str, outlives_us: bool) -> Result<Self> {
        let path = format!("{DIR}/{name}");
        let file = File::open(&path).with_context(|| format!("opening {path}"))?;
        Ok(Self { name: name.into(), fd: Arc::new(file.into()), outlives_us })
    }

    /// The name for `ip netns exec NAME …`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether what runs here goes on when this process ends.
    pub(crate) fn outlives_us(&self) -> bool {
        self.outlives_us
    }

    /// A command that will run in this namespace. Its child is killed when the *thread* that starts
    /// it ends; [`Host::spawn`](crate::Host::spawn) has no such limit.
    ///
    /// `/sys` stays the one outside: only `/proc/sys/net` and `/proc/net` show this namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::start_in(&mut command, self.fd.clone(), !self.outlives_us);
        command
    }

    /// Runs `work` on a thread inside this namespace. A socket made there stays in the namespace
    /// wherever it is used.
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

    /// Runs lines of `ip` commands, without the leading `ip`, at once.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.batch(&["-batch", "-"], lines)
    }

    /// The same as `ip -6`, for commands that don't name an address.
    pub(crate) fn ip6(&self, lines: &str) -> Result<()> {
        self.batch(&["-6", "-batch", "-"], lines)
    }

    fn batch(&self, args: &[&str], lines: &str) -> Result<()> {
        tool::run(self.command("ip").args(args), &format!("{lines}\n"))
            .with_context(|| format!("in namespace {}", self.name))?;
        Ok(())
    }

    /// Loads a ruleset in nft's own notation, atomically.
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

    /// Writes settings below `/proc/sys/net`, given as (path with slashes, value).
    pub(crate) fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            settings.iter().try_for_each(|(key, value)| {
                std::fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("setting net/{key} to {value:?} in {}", self.name))
            })
        })?
    }

    /// Switches the segmentation offloads of `interface`: off, every packet crosses the wire by
    /// itself.
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

/// What must not depend on the machine: IPv4 settings of a new namespace are copied from the
/// initial one. Without duplicate address detection an IPv6 address is usable at once.
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

/// For namespaces that forward, besides the defaults. ICMP errors are not rationed: tests count on
/// each of them.
pub(crate) const FORWARDING: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];
