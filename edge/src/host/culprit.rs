//! Which program has made a change.

use std::{fmt, fs};

/// A process, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Culprit {
    pub pid: u32,
    pub name: String,
    /// Name and number of what started it, if that still runs and is not the first process.
    pub parent: Option<String>,
}

impl Culprit {
    /// In the words of a fix, without a name that a shell would read as a command.
    pub fn in_fix(&self) -> String {
        let text = self.to_string();
        let is_plain = |char: char| char.is_ascii_alphanumeric() || " ._@-(),/:".contains(char);
        if text.chars().all(is_plain) { text } else { "that program".to_owned() }
    }

    pub(super) fn new(pid: u32, name: String) -> Self {
        Self { pid, name, parent: parent(pid) }
    }

    /// The process with the netlink socket of this number: the kernel gives a process's first socket the
    /// process's number. `None` if that process has ended, or is in another network namespace.
    pub(super) fn of_port(port: u32) -> Option<Self> {
        if port == 0 || i32::try_from(port).is_err() || port == std::process::id() {
            return None;
        }
        let here = fs::read_link("/proc/self/ns/net").ok()?;
        (fs::read_link(format!("/proc/{port}/ns/net")).ok()? == here).then_some(())?;
        let name = fs::read_to_string(format!("/proc/{port}/comm")).ok()?;
        Some(Self::new(port, name.trim().to_owned()))
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, parent } = self;
        match parent {
            Some(parent) => write!(f, "{name}, started by {parent}"),
            // It ends at once, so that its number says nothing.
            None if name == "nft" || name == "ip" => write!(f, "a program that runs {name}"),
            None => write!(f, "{name} (pid {pid})"),
        }
    }
}

/// In words, for the start or the middle of a sentence.
pub fn who(by: Option<&Culprit>) -> String {
    by.map_or_else(|| "another program".to_owned(), Culprit::to_string)
}

fn parent(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = field(&status, "PPid:").filter(|parent| !matches!(*parent, "0" | "1"))?;
    let status = fs::read_to_string(format!("/proc/{parent}/status")).ok()?;
    Some(format!("{} (pid {parent})", field(&status, "Name:")?))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
