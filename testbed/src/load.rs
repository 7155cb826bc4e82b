//! Load on a real controller: one process holds the control sessions of thousands of edges.
//!
//! The controller is the real program. The edges have real certificates, real QUIC connections and a source address
//! each, and run in the controller's network namespace. Admin calls create everything in the mesh. The load and the
//! controller share the machine, so times include the cost of the edges; the controller's CPU time and memory are
//! measured separately.
//!
//! The mesh has three parts: many small namespaces, one with many edges, and one with many edges and many routes.
//! `--store` retains it, so that the next run needs no enrolment.

mod edges;
mod fleet;
mod follower;
mod full_edge;
mod identities;
mod lab;
mod observed;
mod operator;
mod report;
mod scenario;
mod usage;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::privilege;
use lab::LoadLab;
pub use report::{Figure, Report};
use scenario::Scenario;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Run only the scenarios whose names start with one of these
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO")]
    pub only: Vec<String>,
    /// Fail if a figure misses its target
    #[arg(long)]
    pub check: bool,
    /// Retain the mesh and the certificates in this directory for the next run
    #[arg(long, value_name = "DIRECTORY")]
    pub store: Option<PathBuf>,
    /// Store the mesh in a member of etcd beside the controller, not in the embedded store
    #[arg(long)]
    pub etcd: bool,
    #[command(flatten)]
    pub size: Size,
}

/// The size of the mesh, and the length of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Size {
    /// Number of small namespaces
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub namespaces: u32,
    /// Edges in each small namespace
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub edges: u32,
    /// Edges in each of the two large namespaces
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=4000))]
    pub many: u32,
    /// Routes in the second large namespace
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub routes: u32,
    /// Links of the real gateway
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub links: u8,
    /// Edits to measure
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub edits: u32,
    /// Seconds to measure a flapping route, or idle edges
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
}

impl Size {
    /// For tests.
    pub const SMALL: Self =
        Self { namespaces: 4, edges: 15, many: 60, routes: 2_000, links: 2, edits: 10, seconds: 2 };
}

/// Runs the chosen scenarios and prints what they measure. For any user but root this executes the program again, see
/// [`privilege::ensure()`].
///
/// # Errors
/// If a scenario fails, if `only` matches no scenario, or if `check` is set and a figure misses its target.
pub fn run(options: &Options) -> Result<()> {
    map_socket_buffers()?;
    let report = measure(options)?;
    let missed = report.missed();
    ensure!(!options.check || missed == 0, "{missed} figures miss their target");
    Ok(())
}

/// Makes glibc map each large allocation separately.
///
/// Every edge has a socket with a receive buffer of 3 MiB, of which it uses a few pages. From its free list, glibc
/// would have to clear the whole buffer, and so make all of it resident: 30 GB for 10,000 edges. Pages that are newly
/// mapped are zero without being touched. glibc reads the variable at start, so this **executes the program again**.
fn map_socket_buffers() -> Result<()> {
    const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";
    if std::env::var_os(THRESHOLD).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().context("finding this program's own path")?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(THRESHOLD, "131072");
    Err(anyhow!(command.exec()).context("executing this program again"))
}

/// Runs the chosen scenarios, prints their figures and returns them, whether or not they meet their targets.
pub fn measure(options: &Options) -> Result<Report> {
    let scenarios = chosen(&options.only)?;
    privilege::ensure()?;
    let mut lab = LoadLab::start(options)?;
    let host = lab.host.clone();
    host.enter(|| {
        let runtime = LoadLab::runtime()?;
        let mut report = Report::default();
        for scenario in scenarios {
            report.start_scenario(scenario.name());
            runtime.block_on(scenario.run(&mut lab, &mut report))?;
        }
        Ok(report)
    })?
}

fn chosen(prefixes: &[String]) -> Result<Vec<Scenario>> {
    for prefix in prefixes {
        if !Scenario::ALL.iter().any(|scenario| scenario.name().starts_with(prefix.as_str())) {
            let names: Vec<_> = Scenario::ALL.iter().map(|scenario| scenario.name()).collect();
            bail!("no scenario starts with {prefix:?}; there are {}", names.join(", "));
        }
    }
    let wanted = |scenario: &Scenario| {
        prefixes.is_empty() || prefixes.iter().any(|prefix| scenario.name().starts_with(prefix))
    };
    Ok(Scenario::ALL.into_iter().filter(wanted).collect())
}
