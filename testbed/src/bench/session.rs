//! A run: conditions, scenarios, rounds, contenders, from the outside in.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::arena::Arena;
use super::contender::{Contender, Kit, wait_up};
use super::measure::measure;
use super::scenario::{Condition, Scenario, Workload};
use super::store::{Key, Sample, Standing, Store};
use super::{Plan, Tunnels, machine};
use crate::Lab;

pub(super) struct Session {
    arena: Arena,
    tunnels: Tunnels,
    store: Store,
    path: PathBuf,
    commit: String,
    /// When it began, in seconds of Unix time.
    number: u64,
    /// The lab is being removed from under us: what fails now is no result.
    interrupted: Arc<AtomicBool>,
}

impl Session {
    /// Makes the lab and everybody's files in it. Who fails at that is out.
    pub(super) fn set_up(
        lab: &mut Lab,
        kits: Vec<(&'static str, Kit)>,
        mut store: Store,
        path: PathBuf,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self> {
        let arena = Arena::build(lab)?;
        arena.set(Condition::Veth, 1)?;
        let mut tunnels = Tunnels::new();
        for (name, kit) in kits {
            match kit.set_up(lab, &arena) {
                Ok(tunnel) => {
                    tunnels.insert(name, tunnel);
                }
                Err(error) => {
                    eprintln!("{name}: {error:#}");
                    let why = Standing::Missing(format!("{error:#}"));
                    store.contenders.insert(name.to_owned(), why);
                }
            }
        }
        let number = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
        let commit = machine::commit();
        Ok(Self { arena, tunnels, store, path, commit, number: number.as_secs(), interrupted })
    }

    /// Runs the plan. What fails is stored as such; an error means that nothing can be stored.
    pub(super) fn run(mut self, plan: &Plan) -> Result<()> {
        for scenarios in plan.scenarios.chunk_by(|one, other| one.condition == other.condition) {
            let condition = scenarios[0].condition;
            eprintln!("== {condition}");
            if let Err(error) = self.arena.set(condition, 1) {
                eprintln!("{error:#}");
                continue;
            }
            // Anew for each condition: what was learnt of another path would be of no use.
            self.start_all();
            for scenario in scenarios {
                self.scenario(plan, scenario)?;
            }
            self.stop_all();
        }
        self.store.save(&self.path)
    }

    fn scenario(&mut self, plan: &Plan, scenario: &Scenario) -> Result<()> {
        for round in 1..=plan.rounds {
            for name in plan.contenders.iter().copied() {
                let Some(tunnel) = self.tunnels.get_mut(name) else { continue };
                if tunnel.processes().is_empty() && scenario.workload == Workload::Start {
                    continue;
                }
                if !scenario.is_for(name, plan.named) {
                    continue;
                }
                let (arena, tunnel) = (&self.arena, tunnel.as_mut());
                let measured = renew(arena, scenario.condition, round)
                    .and_then(|()| measure(arena, tunnel, scenario, plan.seconds));
                if self.interrupted.load(Ordering::Relaxed) {
                    bail!("interrupted");
                }
                report(scenario, round, plan.rounds, name, &measured);
                if measured.is_err() {
                    restart(arena, name, tunnel);
                }
                let (session, commit) = (self.number, self.commit.as_str());
                let key = Key { scenario: scenario.name, contender: name, session, commit };
                self.store.add(&key, measured);
            }
            // An interrupted run keeps its rounds.
            self.store.save(&self.path)?;
        }
        Ok(())
    }

    fn start_all(&mut self) {
        for (name, tunnel) in &mut self.tunnels {
            restart(&self.arena, name, tunnel.as_mut());
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

/// Random loss begins anew in each round, with the same sequence for everybody.
fn renew(arena: &Arena, condition: Condition, round: u32) -> Result<()> {
    match condition {
        Condition::Wan { .. } => arena.set(condition, round),
        Condition::Veth | Condition::NoSegmentation | Condition::Narrow => Ok(()),
    }
}

/// Who doesn't come up is tried again by its next round, which then fails with the reason.
fn restart(arena: &Arena, name: &str, tunnel: &mut dyn Contender) {
    let started = arena.left().and_then(|left| {
        // It may have ended by itself.
        drop(tunnel.stop());
        tunnel.start()?;
        wait_up(tunnel, &left)
    });
    if let Err(error) = started {
        eprintln!("{name} does not start: {error:#}");
    }
}

fn report(scenario: &Scenario, round: u32, rounds: u32, name: &str, measured: &Result<Sample>) {
    let what = match measured {
        Ok(sample) => {
            let figures: Vec<_> =
                sample.iter().map(|(metric, value)| format!("{metric} {value:.2}")).collect();
            figures.join(", ")
        }
        Err(error) => format!("{error:#}"),
    };
    eprintln!("{:<16} {round}/{rounds} {name:<14} {what}", scenario.name);
}
