//! The benchmarks: cframe and other tunnels in one lab, measured in turns, and a report.
//!
//! All tunnels of a run are up at the same time with different addresses, and carry only keepalives
//! while another one is measured. Rounds of two tunnels follow each other within seconds, so a
//! slowdown of the machine that lasts longer affects both.

pub mod aead_loop;

mod chart;
mod contender;
mod sites;

mod identity;
mod machine;
mod measure;
mod packages;
mod report;
mod scenario;
mod session;
mod statistics;
mod store;
mod targets;
mod udp;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::lab::Lab;
use crate::privilege;
use crate::signals::Signals;
pub(crate) use measure::cpu_seconds;
pub(crate) use statistics::percentile;

use contender::FetchedContender;
use packages::Packages;
use scenario::Scenario;
use session::Session;
use store::{Availability, Store};

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Number of rounds for each contender
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Length of a round; some scenarios take longer
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Only these scenarios, or those whose names start with these words
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO")]
    pub only: Vec<String>,
    /// Only these contenders
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub contenders: Vec<String>,
    /// Measure the AEAD loop too: the design's cost without QUIC
    #[arg(long)]
    pub limit: bool,
    /// Run one short round, to see that everything works
    #[arg(long)]
    pub quick: bool,
    /// Measure nothing; write the report from the stored results
    #[arg(long)]
    pub report_only: bool,
    /// Where to write the report; its charts go to the directory of the same name
    #[arg(long, default_value = "doc/benchmarks.md", value_name = "FILE")]
    pub out: PathBuf,
    /// Directory for results and other tunnels' programs; `bench` in the target directory otherwise
    #[arg(long, value_name = "DIRECTORY")]
    pub store: Option<PathBuf>,
}

/// Measures and writes the report. As another user than root it executes the program again, see
/// [`privilege::ensure()`].
pub fn run(options: &Options) -> Result<()> {
    let dir = directory(options)?;
    let path = dir.join("results.json");
    if options.report_only {
        return report::write(&Store::load(&path)?, &options.out);
    }
    let plan = Plan::new(options)?;
    let mut store = Store::load(&path)?;
    // Before `privilege::ensure()`: without root that executes all of this again in a network
    // namespace without a connection, where only packages that were fetched before are available.
    let fetched = fetch(&plan, &Packages::in_dir(dir.join("peers")), &mut store);
    privilege::ensure()?;
    privilege::ensure_tun()?;
    store.machine = machine::describe();
    eprintln!("{plan}");
    measure(plan, fetched, store, path.clone())?;
    report::write(&Store::load(&path)?, &options.out)
}

struct Plan {
    scenarios: Vec<Scenario>,
    contenders: Vec<&'static str>,
    /// Whether the contenders were named on the command line.
    named: bool,
    rounds: u32,
    seconds: u32,
}

impl Plan {
    fn new(options: &Options) -> Result<Self> {
        let scenarios = scenario::selected(&options.only).map_err(|unknown| {
            let names: Vec<_> = scenario::all().iter().map(|scenario| scenario.name).collect();
            anyhow!("there is no scenario {}: use {}", unknown.join(", "), names.join(", "))
        })?;
        let contenders = contenders(&options.contenders, options.limit)?;
        let (rounds, seconds) =
            if options.quick { (1, 1) } else { (options.rounds, options.seconds) };
        let named = !options.contenders.is_empty();
        Ok(Self { scenarios, contenders, named, rounds, seconds })
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scenarios, contenders) = (self.scenarios.len(), self.contenders.len());
        let rounds = self.rounds;
        let seconds_of = |scenario: &Scenario| {
            let measured = |name: &&&str| scenario.is_for(name, self.named);
            let count = self.contenders.iter().filter(measured).count();
            u64::from(scenario.seconds_per_round(self.seconds)) * count as u64
        };
        let seconds = self.scenarios.iter().map(seconds_of).sum::<u64>() * u64::from(rounds);
        let minutes = seconds.div_ceil(60);
        write!(
            f,
            "{scenarios} scenarios, {contenders} contenders, {rounds} rounds: about {minutes} minutes"
        )
    }
}

/// The contenders to measure, in the order of the tables.
fn contenders(words: &[String], limit: bool) -> Result<Vec<&'static str>> {
    let names = contender::NAMES;
    if let Some(unknown) = words.iter().find(|word| !names.contains(&word.as_str())) {
        bail!("there is no contender {unknown:?}: use {}", names.join(", "));
    }
    let wanted = |name: &&str| match words {
        [] => contender::DEFAULT.contains(name),
        words => words.iter().any(|word| word == name),
    };
    Ok(names.into_iter().filter(|name| wanted(name) || (limit && *name == "limit")).collect())
}

/// Fetches the contenders' programs. Unavailable ones are recorded in the store.
fn fetch(plan: &Plan, packages: &Packages, store: &mut Store) -> Fetched {
    let commit = machine::commit();
    let mut fetched = Vec::new();
    for name in &plan.contenders {
        let availability = match FetchedContender::fetch(name, packages) {
            Ok(contender) => {
                let version = contender.version(&commit);
                fetched.push((*name, contender));
                Availability::Version(version)
            }
            Err(error) => {
                eprintln!("{name} is not available: {error:#}");
                Availability::Missing(format!("{error:#}"))
            }
        };
        store.contenders.insert((*name).to_owned(), availability);
    }
    fetched
}

fn measure(plan: Plan, fetched: Fetched, store: Store, path: PathBuf) -> Result<()> {
    ensure!(!fetched.is_empty(), "none of the contenders is available");
    Signals::block_on(async |mut signals| {
        let mut lab = Lab::new("bench")?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let session = Session::set_up(&mut lab, fetched, store, path, interrupted.clone())?;
        let outcome = signals.run(move || session.run(&plan)).await?.unwrap_or_else(|| {
            interrupted.store(true, Ordering::Relaxed);
            Err(anyhow!("interrupted: the finished rounds are stored"))
        });
        lab.remove().and(outcome)
    })
}

fn directory(options: &Options) -> Result<PathBuf> {
    let dir = match &options.store {
        Some(dir) => dir.clone(),
        None => {
            let exe = std::env::current_exe().context("finding this program's own path")?;
            let target = exe.ancestors().nth(2).unwrap_or(Path::new("target"));
            target.join("bench")
        }
    };
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    std::path::absolute(dir).context("finding the store")
}

type Fetched = Vec<(&'static str, FetchedContender)>;

/// By contender.
type Tunnels = BTreeMap<&'static str, Box<dyn contender::Contender>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_measured_only_with_its_option() {
        assert_eq!(contenders(&[], false).unwrap(), contender::DEFAULT);
        assert!(contenders(&[], true).unwrap().contains(&"limit"));
        let two = ["none".to_owned(), "cframe".to_owned()];
        assert_eq!(contenders(&two, false).unwrap(), ["cframe", "none"]);
        contenders(&["wireguard".to_owned()], false).unwrap_err();
    }
}
