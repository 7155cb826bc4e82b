//! The benchmarks: other people's tunnels and ours in the same lab, in turns, and a report of it.
//!
//! All tunnels of a run are up at the same time, each with addresses of its own; those that are not being measured
//! carry nothing but their keep-alives. So a round of one follows a round of the other within seconds, and what slows
//! the machine down for a minute is in both.

pub mod aead_loop;

mod arena;
mod chart;
mod contender;
mod cpu;
mod identity;
mod machine;
mod measure;
mod peers;
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
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::oneshot;

use crate::signals::Signals;
use crate::{Lab, privilege};
pub(crate) use cpu::seconds as cpu_seconds;
pub(crate) use statistics::percentile;

use contender::Kit;
use peers::Peers;
use scenario::Scenario;
use session::Session;
use store::{Standing, Store};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often each is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How long a round takes; some take longer
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Only these scenarios, or those that begin so
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO")]
    pub only: Vec<String>,
    /// Only these contenders
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub contenders: Vec<String>,
    /// Measure the loop with the AEAD alone, too
    #[arg(long)]
    pub limit: bool,
    /// One short round: does it work?
    #[arg(long)]
    pub quick: bool,
    /// Measure nothing, and write the report of what is stored
    #[arg(long)]
    pub report_only: bool,
    /// The report; its charts go to a directory of the same name
    #[arg(long, default_value = "doc/benchmarks.md", value_name = "FILE")]
    pub out: PathBuf,
    /// Where results and peers' programs are kept; `bench` beside the release build otherwise
    #[arg(long, value_name = "DIRECTORY")]
    pub store: Option<PathBuf>,
}

/// Measures and reports. As another user than root this executes the program again, see
/// [`privilege::ensure()`].
///
/// # Errors
/// When the lab can't be made or was interrupted, or when a word on the command line names nothing. A contender that
/// can't be had or fails is in the report.
pub fn run(options: &Options) -> Result<()> {
    let dir = directory(options)?;
    let path = dir.join("results.json");
    if options.report_only {
        return report::write(&Store::load(&path)?, &options.out);
    }
    let plan = Plan::of(options)?;
    let mut store = Store::load(&path)?;
    // Before the network is another one: without root the next step executes all of this again in a namespace of our
    // own, where only what was fetched already can be had.
    let kits = kits(&plan, &Peers::in_dir(dir.join("peers")), &mut store);
    privilege::ensure()?;
    privilege::ensure_tun()?;
    store.machine = machine::describe();
    eprintln!("{plan}");
    measure(plan, kits, store, path.clone())?;
    report::write(&Store::load(&path)?, &options.out)
}

/// What a run does.
struct Plan {
    scenarios: Vec<Scenario>,
    contenders: Vec<&'static str>,
    /// Whether somebody asked for just these.
    named: bool,
    rounds: u32,
    seconds: u32,
}

impl Plan {
    fn of(options: &Options) -> Result<Self> {
        let scenarios = scenario::selected(&options.only).map_err(|unknown| {
            let names: Vec<_> = scenario::all().iter().map(|scenario| scenario.name).collect();
            anyhow::anyhow!("no scenario {}: there are {}", unknown.join(", "), names.join(", "))
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
        let of = |scenario: &Scenario| {
            let takes_part = |name: &&&str| scenario.is_for(name, self.named);
            let count = self.contenders.iter().filter(takes_part).count();
            u64::from(scenario.cost(self.seconds)) * count as u64
        };
        let minutes = (self.scenarios.iter().map(of).sum::<u64>() * u64::from(rounds)).div_ceil(60);
        write!(
            f,
            "{scenarios} scenarios, {contenders} contenders, {rounds} rounds: about {minutes} minutes"
        )
    }
}

/// In the order of the tables, whatever the order of the words.
fn contenders(words: &[String], limit: bool) -> Result<Vec<&'static str>> {
    let names = contender::NAMES;
    if let Some(unknown) = words.iter().find(|word| !names.contains(&word.as_str())) {
        bail!("no contender {unknown:?}: there are {}", names.join(", "));
    }
    let wanted = |name: &&str| match words {
        [] => contender::USUAL.contains(name),
        words => words.iter().any(|word| word == name),
    };
    Ok(names.into_iter().filter(|name| wanted(name) || (limit && *name == "limit")).collect())
}

/// The programs that could be had; what couldn't is noted.
fn kits(plan: &Plan, peers: &Peers, store: &mut Store) -> Vec<(&'static str, Kit)> {
    let commit = machine::commit();
    let mut kits = Vec::new();
    for name in &plan.contenders {
        let standing = match Kit::fetch(name, peers) {
            Ok(kit) => {
                let version = kit.version(&commit);
                kits.push((*name, kit));
                Standing::Version(version)
            }
            Err(error) => {
                eprintln!("{name} can't be had: {error:#}");
                Standing::Missing(format!("{error:#}"))
            }
        };
        store.contenders.insert((*name).to_owned(), standing);
    }
    kits
}

fn measure(plan: Plan, kits: Vec<(&'static str, Kit)>, store: Store, path: PathBuf) -> Result<()> {
    ensure!(!kits.is_empty(), "none of the contenders can be had");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut lab = Lab::new("bench")?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let session = Session::set_up(&mut lab, kits, store, path, interrupted.clone())?;
        let (sender, ended) = oneshot::channel();
        // It blocks; this thread stays free to end it.
        thread::spawn(move || sender.send(session.run(&plan)));
        let outcome = tokio::select! {
            outcome = ended => outcome.context("the benchmark's thread has panicked")?,
            () = signals.any() => {
                interrupted.store(true, Ordering::Relaxed);
                Err(anyhow::anyhow!("interrupted: what was measured is stored"))
            }
        };
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
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    std::path::absolute(dir).context("finding the store")
}

/// By contender.
type Tunnels = BTreeMap<&'static str, Box<dyn contender::Contender>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_measured_when_asked_for() {
        assert_eq!(contenders(&[], false).unwrap(), contender::USUAL);
        assert!(contenders(&[], true).unwrap().contains(&"limit"));
        let two = ["none".to_owned(), "cframe".to_owned()];
        assert_eq!(contenders(&two, false).unwrap(), ["cframe", "none"]);
        contenders(&["wireguard".to_owned()], false).unwrap_err();
    }
}
