//! A lab: a virtual internet made of network namespaces, with hosts and sites on it.

mod guard;
mod internet;
mod nat;
mod owner;
mod rules;
mod site;
mod sites;
mod wan;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::host::Host;
use crate::netns::Netns;
use crate::privilege;
use crate::process::{Process, last_lines};
use guard::Guard;
use owner::LabId;

pub use guard::{FoundLab, list, remove, remove_stale};
pub use internet::Uplink;
pub use nat::Nat;
pub use rules::PathMtu;
pub use site::{Site, SiteBuilder};
pub use sites::ThreeSites;
pub use wan::Wan;

pub(crate) use wan::ExistingLab;

/// A virtual internet. Dropping it removes its namespaces, programs and files. If this process ends
/// without dropping it, a guard process removes them, and if the guard was killed too, the next
/// [`Lab::new`] or [`remove_stale`] does.
#[derive(Debug)]
pub struct Lab {
    id: LabId,
    dir: Arc<Path>,
    internet: Arc<internet::Internet>,
    guard: Option<Guard>,
}

impl Lab {
    /// Creates a lab with its router. `name` is shown by [`list`] and need not be unique.
    pub fn new(name: &str) -> Result<Self> {
        Self::start(name, false)
    }

    /// Creates a lab that stays after this process, with the programs started in it, until
    /// [`remove`].
    pub fn kept(name: &str) -> Result<Self> {
        ensure!(
            !privilege::is_inside(),
            "without root a lab can't be kept: it ends with this process's namespaces"
        );
        Self::start(name, true)
    }

    fn start(name: &str, kept: bool) -> Result<Self> {
        privilege::check()?;
        remove_stale()?;
        let id = LabId::next(kept).context("reading this process's own start time")?;
        let dir: Arc<Path> = guard::create_dir(&id, name)?.into();
        // Before the first namespace is created, so that none can be left behind.
        let guard = if kept { None } else { Some(Guard::start(&id, &dir)?) };
        let names = [format!("{id}-internet")];
        let [router] = create_namespaces(&names, kept)?;
        let internet = Arc::new(internet::Internet::new(router, dir.clone())?);
        Ok(Self { id, dir, internet, guard })
    }

    /// The prefix of the names of its namespaces.
    pub fn id(&self) -> String {
        self.id.to_string()
    }

    /// The lab's directory, mode 0700, removed with the lab. Programs' logs are in `log/`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The router that connects all public hosts.
    pub fn router(&self) -> &Netns {
        self.internet.router()
    }

    /// A builder of a site: an edge host on the internet, and a workload host behind it.
    pub fn site(&mut self, name: &str) -> SiteBuilder<'_> {
        SiteBuilder::new(self, name)
    }

    /// A builder of a host with public addresses and nothing behind it, such as a controller.
    pub fn host(&mut self, name: &str) -> PublicHostBuilder<'_> {
        PublicHostBuilder { lab: self, name: name.to_owned(), public: Vec::new() }
    }

    /// Adds a network behind a site's edge, such as a pod network, with one host in it whose
    /// default route is the edge.
    pub fn add_network(&self, site: &Site, prefix: &str) -> Result<Host> {
        site::add_network(self, site, prefix)
    }

    /// Starts a program outside of all namespaces that ends with the lab.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(name, command, &self.dir.join("log"), self.guard.is_none())
    }

    /// The command line that opens a shell on `host`.
    pub fn shell_command(&self, host: &Host) -> String {
        let exec = format!("ip netns exec {} bash", host.netns().name());
        if privilege::is_inside() {
            let pid = std::process::id();
            return format!("nsenter --preserve-credentials -U -m -t {pid} {exec}");
        }
        exec
    }

    /// Removes the lab, as dropping it does, and returns what went wrong.
    pub fn remove(mut self) -> Result<()> {
        self.remove_all()
    }

    /// Creates hosts that are not connected to anything yet.
    fn create_hosts<const N: usize>(&self, names: [String; N]) -> Result<[Host; N]> {
        let kept = self.guard.is_none();
        let full = names.each_ref().map(|name| format!("{}-{name}", self.id));
        let mut spaces = create_namespaces(&full, kept)?.into_iter();
        Ok(names.map(|name| {
            let netns = spaces.next().expect("one namespace per name");
            Host::new(name, netns, self.dir.clone(), kept)
        }))
    }

    fn remove_all(&mut self) -> Result<()> {
        let Some(guard) = self.guard.take() else {
            return Ok(());
        };
        guard.remove_lab()?;
        let left = guard::namespaces_of(&self.id)?;
        if !left.is_empty() {
            bail!("could not remove {}", left.join(", "));
        }
        ensure!(!self.dir.exists(), "could not remove {}", self.dir.display());
        Ok(())
    }

    /// Prints the end of each log to stderr: for a failed test, before they are removed.
    fn print_logs(&self) {
        let logs = fs::read_dir(self.dir.join("log")).into_iter().flatten().flatten();
        for log in logs {
            let text =
                String::from_utf8_lossy(&fs::read(log.path()).unwrap_or_default()).into_owned();
            let tail = last_lines(&text, 40);
            eprintln!("--- the end of {}\n{tail}", log.file_name().display());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_logs();
        }
        if let Err(error) = self.remove_all() {
            eprintln!("lab {}: {error:#}", self.id);
        }
    }
}

fn create_namespaces<const N: usize>(names: &[String; N], kept: bool) -> Result<[Netns; N]> {
    let spaces = Netns::create(names, kept)?;
    Ok(spaces.try_into().expect("one namespace per name"))
}

#[derive(Debug)]
pub struct PublicHostBuilder<'a> {
    lab: &'a mut Lab,
    name: String,
    public: Vec<String>,
}

impl PublicHostBuilder<'_> {
    /// Adds a public address with its subnet, such as `198.51.100.10/24` or `2001:db8:a::10/64`;
    /// one per address family at most.
    #[must_use]
    pub fn public(mut self, address: &str) -> Self {
        self.public.push(address.to_owned());
        self
    }

    pub fn build(self) -> Result<PublicHost> {
        let [host] = self.lab.create_hosts([self.name.clone()])?;
        let uplink = self.lab.internet.attach(&self.name, host.netns(), &self.public)?;
        let host = host.with_addresses(uplink.shared_addresses());
        Ok(PublicHost { host, uplink })
    }
}

/// A host directly on the internet.
#[derive(Clone, Debug)]
pub struct PublicHost {
    host: Host,
    uplink: Uplink,
}

impl PublicHost {
    pub fn uplink(&self) -> &Uplink {
        &self.uplink
    }
}

impl Deref for PublicHost {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}
