use ipnet::IpNet;

use super::Dropped;
use crate::{config::OwnPrefixes, host::backoff::Undone};

/// What is known of the table.
#[derive(Clone, Debug, Default)]
pub struct FirewallFacts {
    pub table: String,
    /// Whether there are prefixes to guard.
    pub wanted: bool,
    /// Whether the table is in the kernel as wanted, as far as the kernel has reported.
    pub in_force: bool,
    /// Why it cannot be installed.
    pub error: Option<String>,
    /// If the program `nft` is missing: how to install it.
    pub install_nft: Option<&'static str>,
    /// Whether masquerading is configured.
    pub snat: bool,
    /// Why the kernel refuses masquerading alone.
    pub snat_error: Option<String>,
    pub undone: Option<Undone>,
    pub dropped: Dropped,
    pub own_prefixes: OwnPrefixes,
    pub uncovered: Vec<Uncovered>,
}

/// A prefix of this site that the host's networks do not cover completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncovered {
    pub net: IpNet,
    /// The device by which the rest would leave.
    pub device: String,
    /// Whether it may.
    pub allowed: bool,
}

/// The command that installs `nft` here.
pub(super) fn nft_installer() -> &'static str {
    let installers = [
        ("/usr/bin/apt-get", "apt-get install -y nftables"),
        ("/usr/bin/dnf", "dnf install -y nftables"),
        ("/usr/bin/zypper", "zypper install -y nftables"),
        ("/sbin/apk", "apk add nftables"),
    ];
    let found = installers.iter().find(|(program, _)| std::path::Path::new(program).exists());
    found.map_or("install the package nftables", |(_, command)| command)
}
