//! The program `cframe-controller`.

use std::{fmt, io, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, File, Flags, LogFormat, RunFlags};

mod admin;
mod archive;
mod ca;
mod context;
mod data_dir;
mod init;
mod join;
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
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    fn not_found(error: anyhow::Error) -> Self {
        Self { code: 3, error }
    }

    fn unreachable(error: anyhow::Error) -> Self {
        Self { code: 6, error }
    }

    /// It exists already, or is in use.
    fn conflict(error: anyhow::Error) -> Self {
        Self { code: 4, error }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: 1, error: error.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole chain on one line.
        f.write_str(&format!("{:#}", self.error).replace('\n', " "))
    }
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cframe-controller: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

impl Cli {
    fn execute(self) -> Result<(), Failure> {
        let Self { flags, command } = self;
        match command {
            Command::Version => {
                println!(
                    "cframe-controller {} (protocol {})",
                    env!("CARGO_PKG_VERSION"),
                    cframe_protocol::v1::PROTOCOL
                );
                return Ok(());
            }
            Command::Completion { shell } => {
                let name = "cframe-controller";
                clap_complete::generate(shell, &mut Self::command(), name, &mut io::stdout());
                return Ok(());
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
        log(config.log_format, flags.verbose);
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

fn log(format: LogFormat, verbose: u8) {
    let default = match verbose {
        0 => "info",
        1 => "info,cframe_controller=debug,cframe_protocol=debug",
        _ => "debug,cframe_controller=trace,cframe_protocol=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => {
            use io::IsTerminal;
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colour).init();
        }
    }
}
