//! Load on a real controller: the control sessions of thousands of edges out of this one process.
//!
//! The controller is the real program with its embedded store; edges have real certificates, real QUIC connections and
//! a source address each, and are in the controller's network namespace. What is in the mesh is made by admin calls. Both
//! share the machine, so a figure has the cost of the edges in it; the controller's CPU time and memory are its own.
//!
//! The mesh has three parts: many namespaces of a few edges, one with many edges, and one with many edges and many
//! routes. With `--store` it stays, and the next run needs no enrolment.

mod controller;
mod edges;
mod fleet;
mod follower;
mod identities;
mod operator;
mod report;
mod scenario;
mod world;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::privilege;
pub use report::{Figure, Report};
use scenario::Scenario;
use world::World;

/// What to load the controller with.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only these scenarios, or those that begin so
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO")]
    pub only: Vec<String>,
    /// Fail if a figure misses its target
    #[arg(long)]
    pub check: bool,
    /// Keep the mesh and the certificates here for the next run
    #[arg(long, value_name = "DIRECTORY")]
    pub store: Option<PathBuf>,
    /// Have the mesh in a member of etcd beside the controller, not in the embedded store
    #[arg(long)]
    pub etcd: bool,
    /// How large it all is
    #[command(flatten)]
    pub size: Size,
}

/// How large a mesh is, and how long it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Size {
    /// Namespaces of a few edges
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub namespaces: u32,
    /// Edges of each of them
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub edges: u32,
    /// Edges of the namespaces with many
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=4000))]
    pub many: u32,
    /// Routes of the namespace with many
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub routes: u32,
    /// Edits that are measured
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub edits: u32,
    /// Seconds that a flapping route or an idle fleet is looked at
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
}

impl Size {
    /// For a test: all of it, some hundred times smaller.
    pub const SMALL: Self =
        Self { namespaces: 4, edges: 15, many: 60, routes: 2_000, edits: 10, seconds: 2 };
}

/// Loads a controller and prints what was measured. As another user than root this executes the program again, see
/// [`privilege::ensure()`].
///
/// # Errors
/// When a scenario cannot be carried out, a word names none, or, with `check`, a figure misses its target.
pub fn run(options: &Options) -> Result<()> {
    take_fresh_pages()?;
    let report = measure(options)?;
    let missed = report.missed();
    ensure!(!options.check || missed == 0, "{missed} figures miss their target");
    Ok(())
}

/// Every edge has a socket of its own with a buffer of 3 MiB, of which it uses some pages. glibc takes such a buffer from
/// what was freed before, and then has to clear, that is to have, all of it: 30 GB. Told to map each, it gets pages that
/// are clear and not there. It reads that at the start, so this **executes the program again**.
fn take_fresh_pages() -> Result<()> {
    const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";
    if std::env::var_os(THRESHOLD).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().context("finding this program's own path")?;
    let mut again = Command::new(program);
    again.args(std::env::args_os().skip(1)).env(THRESHOLD, "131072");
    Err(anyhow!(again.exec()).context("executing this program again"))
}

/// The same, with the figures for whoever wants to judge them.
///
/// # Errors
/// When a scenario cannot be carried out, or a word names none.
pub fn measure(options: &Options) -> Result<Report> {
    let scenarios = chosen(&options.only)?;
    privilege::ensure()?;
    let mut world = World::start(options)?;
    let host = world.host.clone();
    host.enter(|| {
        let runtime = World::runtime()?;
        let mut report = Report::default();
        for scenario in scenarios {
            report.begin(scenario.name());
            runtime.block_on(scenario.run(&mut world, &mut report))?;
        }
        Ok(report)
    })?
}

fn chosen(words: &[String]) -> Result<Vec<Scenario>> {
    for word in words {
        if !Scenario::ALL.iter().any(|scenario| scenario.name().starts_with(word.as_str())) {
            let names: Vec<_> = Scenario::ALL.iter().map(|scenario| scenario.name()).collect();
            bail!("no scenario begins with {word:?}; there are {}", names.join(", "));
        }
    }
    let wanted = |scenario: &Scenario| {
        words.is_empty() || words.iter().any(|word| scenario.name().starts_with(word.as_str()))
    };
    Ok(Scenario::ALL.into_iter().filter(wanted).collect())
}
