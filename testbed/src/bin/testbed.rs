//! The lab by hand.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use cframe_testbed::bench::{self, aead_loop};
use cframe_testbed::{
    Found, Lab, Nat, ThreeSites, clean, crash, demo, down, list, load, privilege, wan,
};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// A virtual internet out of network namespaces.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Labs by hand
    #[command(subcommand)]
    Lab(LabCommand),
    /// Delay, loss, a bottleneck and more between two sites of a lab
    #[command(subcommand)]
    Wan(wan::cli::Command),
    /// Show a mesh of four sites at work, by the real programs
    Demo {
        /// Leave the lab up afterwards
        #[arg(long)]
        keep: bool,
    },
    /// Kill a controller at random moments under writes, on the loopback, and look what is there
    Crash(crash::Options),
    /// Measure other tunnels and ours in turns, and report
    Bench(bench::Options),
    /// Load a controller with the sessions of thousands of edges, and measure
    Load(load::Options),
    /// One end of the loop with the AEAD alone, which `bench --limit` measures
    #[command(hide = true)]
    AeadLoop(aead_loop::Options),
    /// Remove what dead owners left behind
    Clean,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Make a lab of a controller and three sites
    Up {
        /// A name for it
        #[arg(default_value = "lab")]
        name: String,
        /// Stay in the foreground, and remove it on SIGINT, SIGTERM or SIGHUP
        #[arg(long)]
        hold: bool,
        /// Put a NAT in front of aliyun-sz
        #[arg(long)]
        nat: bool,
    },
    /// Remove a lab that was made without --hold
    Down {
        /// Its id, as printed by `up` and `list`
        id: String,
    },
    /// Show all labs of this user
    List,
}

fn main() -> ExitCode {
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
        Command::Lab(command) => lab(command),
        Command::Wan(command) => {
            privilege::ensure()?;
            wan::cli::run(command)
        }
        Command::Demo { keep } => {
            privilege::ensure()?;
            ensure!(demo::run(keep)?, "not everything was as it should be");
            Ok(())
        }
        Command::Crash(options) => {
            println!("{}", crash::run(&options)?);
            Ok(())
        }
        // It sees to its privileges itself: before them, peers are fetched.
        Command::Bench(options) => bench::run(&options),
        Command::Load(options) => load::run(&options),
        Command::AeadLoop(options) => aead_loop::run(&options),
        Command::Clean => {
            privilege::ensure()?;
            for id in clean()? {
                println!("removed {id}");
            }
            Ok(())
        }
    }
}

fn lab(command: LabCommand) -> Result<()> {
    privilege::ensure()?;
    match command {
        LabCommand::Up { name, hold: true, nat } => hold(&name, nat),
        LabCommand::Up { name, hold: false, nat } => keep(&name, nat),
        LabCommand::Down { id } => down(&id),
        LabCommand::List => {
            show(&list()?);
            Ok(())
        }
    }
}

fn keep(name: &str, nat: bool) -> Result<()> {
    let mut lab = Lab::kept(name)?;
    let made = fill(&mut lab, nat);
    if made.is_err() {
        down(&lab.id())?;
    }
    made?;
    println!("Remove it with: testbed lab down {}", lab.id());
    Ok(())
}

fn hold(name: &str, nat: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(async {
        // Before the lab is made, so that no signal passes it by.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut lab = Lab::new(name)?;
        fill(&mut lab, nat)?;
        println!("Remove it with ^C, or: kill {}", std::process::id());
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        lab.remove()
    })
}

fn fill(lab: &mut Lab, nat: bool) -> Result<()> {
    let nat = nat.then(Nat::masquerade);
    let made = ThreeSites::build(lab, nat)?;
    println!("Lab {}", lab.id());
    println!("  {:<16} {}", "controller", lab.how_to_enter(&made.controller));
    for host in made.sites().into_iter().flat_map(|site| [site.edge(), site.workload()]) {
        println!("  {:<16} {}", host.name(), lab.how_to_enter(host));
    }
    Ok(())
}

fn show(labs: &[Found]) {
    println!("{:<24} {:<12} {:<8} {:<10} NAMESPACES", "ID", "NAME", "OWNER", "STATE");
    for lab in labs {
        let state = match (lab.kept, lab.owned) {
            (true, _) => "kept",
            (false, true) => "running",
            (false, false) => "left over",
        };
        let count = lab.namespaces.len();
        println!("{:<24} {:<12} {:<8} {state:<10} {count}", lab.id, lab.name, lab.owner);
    }
}
