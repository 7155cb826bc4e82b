//! A run of the benchmarks: for each condition its scenarios, for each scenario its rounds, and in
//! each round all contenders.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::contender::{Contender, wait_up};
use super::measure::measure;
use super::scenario::{Condition, Scenario, Workload};
use super::sites::BenchSites;
use super::store::{Availability, Key, Sample, Store};
use super::{Fetched, Plan, Tunnels, machine};
use crate::lab::Lab;

pub(super) struct Session {
    sites: BenchSites,
    tunnels: Tunnels,
    store: Store,
    path: PathBuf,
    commit: String,
    /// Start of the run in seconds of Unix time, which identifies it in the store.
    number: u64,
    /// Set when the lab is being removed after a signal: errors are no results then.
    interrupted: Arc<AtomicBool>,
}

impl Session {
    /// Creates the sites and the contenders' files in the lab. A contender that fails is recorded as
    /// missing.
    pub(super) fn set_up(
        lab: &mut Lab,
        fetched: Fetched,
        mut store: Store,
        path: PathBuf,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self> {
        let sites = BenchSites::build(lab)?;
        sites.set_condition(Condition::Veth, 1)?;
        let mut tunnels = Tunnels::new();
        for (name, contender) in fetched {
            match contender.set_up(lab, &sites) {
                Ok(tunnel) => {
                    tunnels.insert(name, tunnel);
                }
                Err(error) => {
                    eprintln!("{name}: {error:#}");
                    let why = Availability::Missing(format!("{error:#}"));
                    store.contenders.insert(name.to_owned(), why);
                }
            }
        }
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        let commit = machine::commit();
        Ok(Self { sites, tunnels, store, path, commit, number: now.as_secs(), interrupted })
    }

    /// Runs the plan. Failed rounds are stored as failed; it returns an error if storing fails.
    pub(super) fn run(mut self, plan: &Plan) -> Result<()> {
        for scenarios in plan.scenarios.chunk_by(|one, other| one.condition == other.condition) {
            let condition = scenarios[0].condition;
            eprintln!("== {condition}");
            if let Err(error) = self.sites.set_condition(condition, 1) {
                eprintln!("{error:#}");
                continue;
            }
            // Restarted for each condition, so that nothing learnt about another path is used.
            self.start_all();
            for scenario in scenarios {
                self.run_scenario(plan, scenario)?;
            }
            self.stop_all();
        }
        self.store.save(&self.path)
    }

    fn run_scenario(&mut self, plan: &Plan, scenario: &Scenario) -> Result<()> {
        for round in 1..=plan.rounds {
            for name in plan.contenders.iter().copied() {
                let Some(tunnel) = self.tunnels.get_mut(name) else { continue };
                if tunnel.processes().is_empty() && scenario.workload == Workload::Start {
                    continue;
                }
                if !scenario.is_for(name, plan.named) {
                    continue;
                }
                let (sites, tunnel) = (&self.sites, tunnel.as_mut());
                let measured = restart_loss(sites, scenario.condition, round)
                    .and_then(|()| measure(sites, tunnel, scenario, plan.seconds));
                if self.interrupted.load(Ordering::Relaxed) {
                    bail!("interrupted");
                }
                print_round(scenario, round, plan.rounds, name, &measured);
                if measured.is_err() {
                    restart(sites, name, tunnel);
                }
                let (session, commit) = (self.number, self.commit.as_str());
                let key = Key { scenario: scenario.name, contender: name, session, commit };
                self.store.add(&key, measured);
            }
            // After each round, so that an interrupted run keeps its rounds.
            self.store.save(&self.path)?;
        }
        Ok(())
    }

    fn start_all(&mut self) {
        for (name, tunnel) in &mut self.tunnels {
            restart(&self.sites, name, tunnel.as_mut());
        }
    }

    fn stop_all(&mut self) {
        for (name, tunnel) in &mut self.tunnels {
            if let Err(error) = tunnel.stop() {
                eprintln!("{name}: {error:#}");
            }
        }
    }
}

/// Restarts random loss, so that in each round all contenders lose the same packets.
fn restart_loss(sites: &BenchSites, condition: Condition, round: u32) -> Result<()> {
    match condition {
        Condition::Wan { .. } => sites.set_condition(condition, round),
        Condition::Veth | Condition::NoSegmentation | Condition::Narrow => Ok(()),
    }
}

/// Restarts a tunnel. An error is only printed here: the tunnel's next round fails with it too.
fn restart(sites: &BenchSites, name: &str, tunnel: &mut dyn Contender) {
    let started = sites.left().and_then(|left| {
        // Fails if the tunnel has ended by itself.
        drop(tunnel.stop());
        tunnel.start()?;
        wait_up(tunnel, &left)
    });
    if let Err(error) = started {
        eprintln!("{name} does not start: {error:#}");
    }
}

fn print_round(
    scenario: &Scenario,
    round: u32,
    rounds: u32,
    name: &str,
    measured: &Result<Sample>,
) {
    let result = match measured {
        Ok(sample) => {
            let figures: Vec<_> =
                sample.iter().map(|(metric, value)| format!("{metric} {value:.2}")).collect();
            figures.join(", ")
        }
        Err(error) => format!("{error:#}"),
    };
    eprintln!("{:<16} {round}/{rounds} {name:<14} {result}", scenario.name);
}
