//! Which program has made a change.

use std::fs;

/// A process, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    pub pid: u32,
    /// Its name, and that of the program that has started it.
    pub name: String,
}

impl Culprit {
    /// The process with the netlink socket of this number: the kernel gives a process's first socket the
    /// process's number. `None` if that process has ended, or is in another network namespace.
    pub(super) fn of_port(port: u32) -> Option<Self> {
        if port == 0 || i32::try_from(port).is_err() || port == std::process::id() {
            return None;
        }
        let here = fs::read_link("/proc/self/ns/net").ok()?;
        (fs::read_link(format!("/proc/{port}/ns/net")).ok()? == here).then_some(())?;
        let name = |pid: &str| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Some(name.trim().to_owned())
        };
        let own = name(&port.to_string())?;
        let stat = fs::read_to_string(format!("/proc/{port}/stat")).unwrap_or_default();
        // After the name in brackets: state, and the parent's number.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        let name = match parent.filter(|pid| *pid != "1").and_then(name) {
            Some(parent) => format!("{own}, started by {parent}"),
            None => own,
        };
        Some(Self { pid: port, name })
    }
}
