//! `systemctl` for a [`Machine`](crate::Machine), which has no systemd: enough of it that an operator's commands and the
//! units of `doc/systemd` work unchanged.
//!
//! - Verbs: `start`, `stop`, `restart`, `reload`, `status`, `is-active`, `is-enabled`, `enable`, `disable`,
//!   `daemon-reload`, with `--now`, `--no-block` and `--quiet`.
//! - Services of type `simple`, `notify` and `oneshot`; drop-ins, templates, `%i`, `%H`, `%p`, `Environment`,
//!   `EnvironmentFile`, `User`, `Group`, `AmbientCapabilities`, `RuntimeDirectory`, `UMask`, `Restart`,
//!   `RestartSec`, `TimeoutStopSec`. Sandboxes and limits are not enforced.
//! - A timer is checked, but never starts its service.
//!
//! Each running service has a supervisor, which is this program too. Its output is in `/var/log/UNIT.log`.

mod file;
mod manager;
mod process;
mod supervisor;

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "systemctl", version, about = "Manages the units of a host of the lab")]
struct Cli {
    /// With `enable` start the units too, with `disable` stop them
    #[arg(long)]
    now: bool,
    /// Don't wait until the units have started
    #[arg(long)]
    no_block: bool,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    /// What to do, such as `start`
    verb: String,
    /// On which units
    units: Vec<String>,
}

/// The program `systemctl`. Exit codes are systemd's: 3 for a unit that is not active.
pub fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("systemctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<u8> {
    if cli.verb == "daemon-reload" {
        // Every command reads the unit files.
        return Ok(0);
    }
    ensure!(!cli.units.is_empty(), "`systemctl {}` needs a unit", cli.verb);
    let mut code = 0;
    for name in &cli.units {
        code = code.max(run_verb(cli, &file::full_name(name))?);
    }
    Ok(code)
}

fn run_verb(cli: &Cli, name: &str) -> Result<u8> {
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
        "is-enabled" => {
            let enabled = manager::is_enabled(name);
            if !cli.quiet {
                println!("{}", if enabled { "enabled" } else { "disabled" });
            }
            return Ok(u8::from(!enabled));
        }
        "is-active" | "status" => {
            let state = manager::state(name)?;
            if !cli.quiet {
                let unit = if cli.verb == "status" { format!("{name}: ") } else { String::new() };
                println!("{unit}{state}");
            }
            return Ok(if state == manager::State::Active { 0 } else { 3 });
        }
        "supervise" => supervisor::run(name)?,
        verb => bail!("`systemctl {verb}` is not supported on a host of the lab"),
    }
    Ok(0)
}
