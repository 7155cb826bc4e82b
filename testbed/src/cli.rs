//! The program `testbed`.

mod lab;
mod wan;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::bench::aead_loop;
use crate::lab::remove_stale;
use crate::{bench, crash, demo, load, privilege};

/// A virtual internet made of network namespaces
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, list and remove labs
    #[command(subcommand)]
    Lab(lab::Command),
    /// Emulate delay, loss, a bottleneck and more between two sites of a lab
    #[command(subcommand)]
    Wan(wan::Command),
    /// Run a mesh of four sites with the real programs, and check what it does
    Demo {
        /// Leave the lab up afterwards
        #[arg(long)]
        keep: bool,
        /// Unix time in seconds of a first step, such as a build, that the summary includes
        #[arg(long, hide = true)]
        started: Option<u64>,
    },
    /// Kill a controller at random moments while clients write, and check that nothing is lost
    Crash(crash::Options),
    /// Measure cframe and other tunnels in turns, and write the report
    Bench(bench::Options),
    /// Measure a controller under the sessions of thousands of edges
    Load(load::Options),
    /// Run one end of the AEAD loop that `bench --limit` measures
    #[command(hide = true)]
    AeadLoop(aead_loop::Options),
    /// Remove labs whose owner died without removing them
    Clean,
}

pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Lab(command) => {
            privilege::ensure()?;
            lab::run(command)
        }
        Command::Wan(command) => {
            privilege::ensure()?;
            wan::run(command)
        }
        Command::Demo { keep, started } => {
            privilege::ensure()?;
            ensure!(demo::run(keep, started)?, "a check of the demo failed: see the summary above");
            Ok(())
        }
        Command::Crash(options) => {
            println!("{}", crash::run(&options)?);
            Ok(())
        }
        // It calls `privilege::ensure()` itself, after it has downloaded the other tunnels.
        Command::Bench(options) => bench::run(&options),
        Command::Load(options) => load::run(&options),
        Command::AeadLoop(options) => aead_loop::run(&options),
        Command::Clean => {
            privilege::ensure()?;
            for id in remove_stale()? {
                println!("removed {id}");
            }
            Ok(())
        }
    }
}
