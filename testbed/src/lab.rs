//! The lab as a whole: its life, and the hosts on its internet.

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

use crate::{Host, Netns, Process, privilege};
use guard::Guard;
use owner::LabId;

pub use guard::{Found, clean, down, list};
pub use internet::Uplink;
pub use nat::Nat;
pub use rules::PathMtu;
pub use site::{Site, SiteBuilder};
pub use sites::ThreeSites;
pub use wan::Wan;

pub(crate) use wan::Standing;

/// A virtual internet. Dropping it removes all of it: namespaces with the links in them, programs,
/// files. Should the process end in any other way, a guard process does the same, and if that was
/// killed too, the next lab does.
#[derive(Debug)]
pub struct Lab {
    id: LabId,
    dir: Arc<Path>,
    internet: Arc<internet::Internet>,
    guard: Option<Guard>,
}

impl Lab {
    /// Makes a lab with its router. `name` is for people: [`list`] shows it.
    pub fn new(name: &str) -> Result<Self> {
        Self::start(name, false)
    }

    /// Makes a lab that stays when this process ends, with the programs started in it, until
    /// [`down`].
    pub fn kept(name: &str) -> Result<Self> {
        ensure!(
            !privilege::is_inside(),
            "without root a lab can't be kept: it ends with this process's namespaces"
        );
        Self::start(name, true)
    }

    fn start(name: &str, kept: bool) -> Result<Self> {
        privilege::check()?;
        clean()?;
        let id = LabId::next(kept).context("reading this process's own start time")?;
        let dir: Arc<Path> = guard::make_dir(&id, name)?.into();
        // From here on a guard watches, so that nothing made below can be left behind.
        let guard = if kept { None } else { Some(Guard::start(&id, &dir)?) };
        let names = [format!("{id}-internet")];
        let [router] = create(&names, kept)?;
        let internet = Arc::new(internet::Internet::new(router, dir.clone())?);
        Ok(Self { id, dir, internet, guard })
    }

    /// What its namespaces' names begin with.
    pub fn id(&self) -> String {
        self.id.to_string()
    }

    /// A directory of its own, mode 0700, removed with it. Programs' logs are in `log/`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in [`Self::dir`].
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The router in the middle: the internet.
    pub fn router(&self) -> &Netns {
        self.internet.router()
    }

    /// A site: an edge host on the internet, and a workload host behind it.
    pub fn site(&mut self, name: &str) -> SiteBuilder<'_> {
        SiteBuilder::new(self, name)
    }

    /// A host with public addresses and nothing behind it, such as a controller.
    pub fn host(&mut self, name: &str) -> PublicHostBuilder<'_> {
        PublicHostBuilder { lab: self, name: name.to_owned(), public: Vec::new() }
    }

    /// Another network behind a site's edge, such as a pod network: its own host, with the default
    /// route to the edge.
    pub fn add_network(&self, site: &Site, prefix: &str) -> Result<Host> {
        site::add_network(self, site, prefix)
    }

    /// Runs a program outside of all namespaces, owned by the lab like those on hosts.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(name, command, &self.dir.join("log"), self.guard.is_none())
    }

    /// The command with which a person gets a shell on `host`.
    pub fn how_to_enter(&self, host: &Host) -> String {
        let exec = format!("ip netns exec {} bash", host.netns().name());
        if privilege::is_inside() {
            let pid = std::process::id();
            return format!("nsenter --preserve-credentials -U -m -t {pid} {exec}");
        }
        exec
    }

    /// Removes it, as dropping it would, and says what went wrong.
    pub fn remove(mut self) -> Result<()> {
        self.take_down()
    }

    /// New hosts, not yet connected to anything.
    fn hosts<const N: usize>(&self, names: [String; N]) -> Result<[Host; N]> {
        let kept = self.guard.is_none();
        let full = names.each_ref().map(|name| format!("{}-{name}", self.id));
        let mut spaces = create(&full, kept)?.into_iter();
        Ok(names.map(|name| {
            let netns = spaces.next().expect("one namespace per name");
            Host::new(name, netns, self.dir.clone(), kept)
        }))
    }

    fn take_down(&mut self) -> Result<()> {
        let Some(guard) = self.guard.take() else {
            return Ok(());
        };
        guard.finish()?;
        let left = guard::namespaces_of(&self.id)?;
        if !left.is_empty() {
            bail!("could not remove {}", left.join(", "));
        }
        ensure!(!self.dir.exists(), "could not remove {}", self.dir.display());
        Ok(())
    }

    /// A failed test's only witnesses are about to be removed.
    fn show_logs(&self) {
        let logs = fs::read_dir(self.dir.join("log")).into_iter().flatten().flatten();
        for log in logs {
            let text =
                String::from_utf8_lossy(&fs::read(log.path()).unwrap_or_default()).into_owned();
            let tail = crate::process::last_lines(&text, 40);
            eprintln!("--- the end of {}\n{tail}", log.file_name().display());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_logs();
        }
        if let Err(error) = self.take_down() {
            eprintln!("lab {}: {error:#}", self.id);
        }
    }
}

fn create<const N: usize>(names: &[String; N], kept: bool) -> Result<[Netns; N]> {
    let spaces = Netns::create(names, kept)?;
    Ok(spaces.try_into().expect("one namespace per name"))
}

/// Collects what a [`PublicHost`] needs.
#[derive(Debug)]
pub struct PublicHostBuilder<'a> {
    lab: &'a mut Lab,
    name: String,
    public: Vec<String>,
}

impl PublicHostBuilder<'_> {
    /// An address on the internet with its subnet, such as `198.51.100.10/24` or
    /// `2001:db8:a::10/64`; one of each family at most.
    #[must_use]
    pub fn public(mut self, address: &str) -> Self {
        self.public.push(address.to_owned());
        self
    }

    /// Makes it.
    pub fn build(self) -> Result<PublicHost> {
        let [host] = self.lab.hosts([self.name.clone()])?;
        let uplink = self.lab.internet.attach(&self.name, host.netns(), &self.public)?;
        let host = host.with_addresses(uplink.shared_addresses());
        Ok(PublicHost { host, uplink })
    }
}

/// A host on the internet itself.
#[derive(Clone, Debug)]
pub struct PublicHost {
    host: Host,
    uplink: Uplink,
}

impl PublicHost {
    /// Its link to the internet.
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
