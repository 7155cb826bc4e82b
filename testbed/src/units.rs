//! What `systemctl` does on a [`Machine`](crate::Machine), which has no systemd: enough of it that an operator's commands and
//! the units of `doc/systemd` work as they stand.
//!
//! - Verbs: `start`, `stop`, `restart`, `reload`, `status`, `is-active`, `is-enabled`, `enable`, `disable`,
//!   `daemon-reload`, with `--now`, `--no-block` and `--quiet`.
//! - Services of type `simple`, `notify` and `oneshot`; drop-ins, templates, `%i`, `%H`, `%p`, `Environment`,
//!   `EnvironmentFile`, `User`, `Group`, `AmbientCapabilities`, `RuntimeDirectory`, `UMask`, `Restart`,
//!   `RestartSec`, `TimeoutStopSec`. Sandboxes and limits are not enforced.
//! - A timer is looked at, and goes off only when its service is started by hand.
//!
//! Each service that runs has a supervisor, which is this program too. What it prints is in
//! `/var/log/UNIT.log`.

mod file;
mod manager;
mod process;
mod supervisor;

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::Parser;

/// The arguments of `systemctl`.
#[derive(Debug, Parser)]
#[command(name = "systemctl", version, about = "The units of a host of the lab")]
struct Cli {
    /// Start or stop it as well, with `enable` and `disable`
    #[arg(long)]
    now: bool,
    /// Don't wait until it has started
    #[arg(long)]
    no_block: bool,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// What is done
    verb: String,
    /// With these
    units: Vec<String>,
}

/// The program `systemctl`. Exit codes are systemd's: 3 for what is not active.
pub fn main() -> ExitCode {
    match dispatch(&Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("systemctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<u8> {
    if cli.verb == "daemon-reload" {
        // Units are read whenever one is started.
        return Ok(0);
    }
    ensure!(!cli.units.is_empty(), "{} of which unit?", cli.verb);
    let mut code = 0;
    for name in &cli.units {
        let name = file::full_name(name);
        code = code.max(one(cli, &name)?);
    }
    Ok(code)
}

fn one(cli: &Cli, name: &str) -> Result<u8> {
    match cli.verb.as_str() {
        "start" => manager::start(name, !cli.no_block)?,
        "stop" => manager::stop(name)?,
        "restart" => {
            manager::stop(name)?;
            manager::start(name, !cli.no_block)?;
        }
        "reload" => manager::reload(name)?,
        "enable" => {
            manager::enable(name)?;
            if cli.now {
                manager::start(name, !cli.no_block)?;
            }
        }
        "disable" => {
            manager::disable(name)?;
            if cli.now {
                manager::stop(name)?;
            }
        }
        "is-enabled" => return say(cli, manager::is_enabled(name), ["disabled", "enabled"], 1),
        "is-active" | "status" => {
            let state = manager::state(name)?;
            if !cli.quiet {
                let unit = if cli.verb == "status" { format!("{name}: ") } else { String::new() };
                println!("{unit}{state}");
            }
            return Ok(if state == manager::State::Active { 0 } else { 3 });
        }
        "supervise" => supervisor::run(name)?,
        verb => bail!("`systemctl {verb}` is not among what the lab's hosts know"),
    }
    Ok(0)
}

fn say(cli: &Cli, yes: bool, words: [&str; 2], otherwise: u8) -> Result<u8> {
    if !cli.quiet {
        println!("{}", words[usize::from(yes)]);
    }
    Ok(if yes { 0 } else { otherwise })
}
