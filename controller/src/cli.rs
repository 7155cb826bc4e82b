//! The program `cframe-controller`.

use std::{env, fmt, process::ExitCode};

use cframe_console::{
    args,
    exit::Exit,
    log::{self, LogFormat},
    output,
};
use clap::{Parser, Subcommand};

use crate::config::{Config, File, Flags, RunFlags};

mod admin;
mod archive;
mod ca;
mod context;
mod data_dir;
mod init;
mod join;
mod listen;
mod opening;
mod records;
mod serve;

pub use context::{AdminContext, Contexts};
pub use data_dir::DataDir;
pub use init::{InitFlags, Initial, TakenError, initialise, initialise_in};
pub use join::{Joined, Joining, Signer, join};
pub use opening::open_store;

#[derive(Debug, Parser)]
#[command(
    name = "cframe-controller",
    version,
    about = "Controller of a cframe mesh: stores its state, enrols edges, and sends them their configuration",
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a mesh: root CA, issuing CA, the controller's certificate, the first admin's context; or with
    /// --join one more controller for one
    Init(InitFlags),
    /// Serve, until SIGTERM or SIGINT
    Run(RunFlags),
    /// Make an admin, or a new certificate for one, on the running controller's own host
    Admin(admin::AdminFlags),
    /// Roots and issuing CAs: make, sign, and use another while the controller runs
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Write a backup, also of a running controller
    Backup(archive::BackupFlags),
    /// Make a mesh from a backup, in a store without one
    Restore(archive::RestoreFlags),
    /// Print the version
    Version,
    /// Print a completion script
    Completion {
        /// For this shell
        shell: clap_complete::Shell,
    },
}

/// An error with the exit code that goes with it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    fn not_found(error: anyhow::Error) -> Self {
        Self { exit: Exit::NotFound, error }
    }

    fn unreachable(error: anyhow::Error) -> Self {
        Self { exit: Exit::Unreachable, error }
    }

    /// It exists already, or is in use.
    fn conflict(error: anyhow::Error) -> Self {
        Self { exit: Exit::Conflict, error }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Error, error: error.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole chain on one line.
        f.write_str(&format!("{:#}", self.error).replace('\n', " "))
    }
}

pub fn main() -> ExitCode {
    match args::parse::<Cli>().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cframe-controller: {failure}");
            failure.exit.into()
        }
    }
}

impl Cli {
    fn execute(self) -> Result<(), Failure> {
        let Self { flags, command } = self;
        match command {
            Command::Version => {
                return Ok(output::print(&format!(
                    "cframe-controller {} (protocol {})\n",
                    env!("CARGO_PKG_VERSION"),
                    cframe_protocol::v1::PROTOCOL
                ))?);
            }
            Command::Completion { shell } => {
                return Ok(output::print(&output::completion(args::command::<Self>(), shell))?);
            }
            Command::Init(_)
            | Command::Run(_)
            | Command::Admin(_)
            | Command::Ca(_)
            | Command::Backup(_)
            | Command::Restore(_) => {}
        }
        let file = File::load(flags.config.as_deref())?;
        let run = if let Command::Run(run) = &command { run.clone() } else { RunFlags::default() };
        let config = Config::resolve(&flags, &run, file)?;
        start_log(config.log_format, flags.verbose)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            match command {
                Command::Init(flags) => init::command(&config, flags).await,
                Command::Run(_) => serve::command(&config).await,
                Command::Admin(flags) => admin::command(&config, flags).await,
                Command::Ca(command) => ca::command(&config, command).await,
                Command::Backup(flags) => archive::backup(&config, flags).await,
                Command::Restore(flags) => archive::restore(&config, flags).await,
                Command::Version | Command::Completion { .. } => Ok(()),
            }
        })
    }
}

/// `RUST_LOG` beats `--verbose`.
fn start_log(format: LogFormat, verbose: u8) -> anyhow::Result<()> {
    let usual = match verbose {
        0 => "info",
        1 => "info,cframe_controller=debug,cframe_protocol=debug",
        _ => "debug,cframe_controller=trace,cframe_protocol=trace",
    };
    let directives = env::var("RUST_LOG").ok().filter(|directives| !directives.is_empty());
    // The variable is shared with other programs: what is wrong for this one must not stop it.
    let filter = directives.as_deref().map(log::filter).transpose();
    let unusable = filter.as_ref().err().map(ToString::to_string);
    let filter = match filter {
        Ok(Some(filter)) => filter,
        Ok(None) | Err(_) => log::filter(usual)?,
    };
    log::start(filter, format, true)?;
    if let Some(error) = unusable {
        tracing::warn!(%error, "RUST_LOG is ignored");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_its_variable() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                let name = format!("CFRAME_CONTROLLER_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(name.as_str()));
            }
            command.get_subcommands().for_each(check);
        }
        let command = args::command::<Cli>();
        command.clone().debug_assert();
        check(&command);
    }
}
