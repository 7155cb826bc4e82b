//! What else people have on the host of an edge: other programs with rules, routes and devices of their own.
//!
//! All of it stays in the host's network namespace, and ends with the lab.

mod docker;
mod flood;
mod kube;
mod policy;
mod undoing;

use std::process::Command;

use anyhow::Result;

use crate::host::Host;
use crate::tool;

pub use docker::Docker;
pub use flood::{LinkEvents, add_routes};
pub use kube::{Iptables, calico, cilium, kube_proxy};
pub use policy::{reboot, second_default_route};
pub use undoing::{Undoing, What};

/// Rules of firewalld 1.3, as `nft list ruleset` shows them, for a gateway with `eth0` in the zone `public`, where the
/// mesh's UDP port is open, and `eth1` in `trusted`. Devices that are in no zone are in `public`: their packets are
/// not forwarded to other devices.
const FIREWALLD: &str = include_str!("neighbours/firewalld.nft");

/// Loads the rules of firewalld, with `trusted` devices in the zone `trusted`, beside `eth1`. The rules are those that
/// `firewall-cmd --zone=trusted --add-interface=DEVICE` makes.
pub fn firewalld(host: &Host, trusted: &[&str]) -> Result<()> {
    let mut rules = FIREWALLD.to_owned();
    for device in trusted {
        rules += &format!(
            "insert rule inet firewalld filter_INPUT_ZONES iifname \"{device}\" goto filter_IN_trusted\n\
             insert rule inet firewalld filter_FORWARD_ZONES iifname \"{device}\" goto filter_FWD_trusted\n\
             insert rule inet firewalld filter_FWD_public_allow oifname \"{device}\" accept\n"
        );
    }
    host.netns().nft(&rules)
}

/// Runs a script of a shell on a host. It ends at the first command that fails.
pub fn run_script(host: &Host, script: &str) -> Result<String> {
    tool::run(host.command("sh").arg("-e"), script)
}

/// Runs a command to its end, with its output in the error.
fn run(command: &mut Command) -> Result<String> {
    tool::run(command, "")
}
