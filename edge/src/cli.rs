//! The program `cframe-edge`: its commands, and the one place where its errors are printed.

mod daemon;
mod enroll;
mod exit;
mod log;
mod show;

use std::{path::PathBuf, process::ExitCode};

use cframe_console::{args, exit::Exit, output};
use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{CommonFlags, Options};
use exit::exit_code;

/// The gateway of a cframe mesh.
#[derive(Debug, Parser)]
#[command(name = "cframe-edge", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    common: CommonFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a mesh with a token of `cfctl token create`
    ///
    /// Generates a key on this host, gets a certificate from the controller, and writes identity and
    /// configuration.
    Join {
        /// The token, or - to read it from standard input [variable: CFRAME_EDGE_TOKEN]
        #[arg(env)]
        token: String,
        /// UDP port of links
        #[arg(long, value_name = "PORT")]
        listen: Option<u16>,
        /// Take the place of another identity in this directory
        #[arg(long)]
        replace: bool,
    },
    /// Run the gateway
    Run {
        #[command(flatten)]
        flags: Options,
    },
    /// Show the running gateway: links, routes, state, certificate
    Status {
        /// Form of the output
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Check this host for problems, with a fix for each; exit code 7 if there are any
    Doctor {
        /// Form of the output
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Keep packets for other sites from leaving in the clear, before the network is up and the gateway runs
    ///
    /// Installs the gateway's firewall table from the saved state. It needs no identity and no network, and the
    /// table stays until `down`.
    Guard,
    /// Remove what a stopped gateway has left: device, routing table, rules, firewall table
    Down,
    /// Print a CSR for `cfctl cert enroll`, for a host that cannot reach a controller yet
    Csr,
    /// Import the answer of `cfctl cert enroll` to the CSR
    Import {
        /// Its file enrolled.json, or the directory that contains it; - for standard input
        #[arg(value_name = "FILE")]
        answer: PathBuf,
        /// UDP port of links
        #[arg(long, value_name = "PORT")]
        listen: Option<u16>,
        /// Take the place of another identity in this directory
        #[arg(long)]
        replace: bool,
    },
    /// Print the version
    Version,
    /// Print completions for a shell
    Completion { shell: clap_complete::Shell },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Parses and executes the command line.
pub fn main() -> ExitCode {
    let Cli { common, command } = args::parse();
    match dispatch(&common, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = exit_code(&error);
            if exit != Exit::Unhealthy {
                eprintln!("cframe-edge: {error:#}");
            }
            exit.into()
        }
    }
}

fn dispatch(common: &CommonFlags, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Join { token, listen, replace } => enroll::join(common, &token, listen, replace),
        Command::Run { flags } => daemon::run(common, &flags),
        Command::Status { output } => show::status(common, output),
        Command::Doctor { output } => show::doctor(common, output),
        Command::Guard => daemon::guard(common),
        Command::Down => daemon::down(common),
        Command::Csr => enroll::csr(common),
        Command::Import { answer, listen, replace } => {
            enroll::import(common, &answer, listen, replace)
        }
        Command::Version => {
            Ok(output::print(concat!("cframe-edge ", env!("CARGO_PKG_VERSION"), "\n"))?)
        }
        Command::Completion { shell } => {
            Ok(output::print(&output::completion(args::command::<Cli>(), shell))?)
        }
    }
}

/// A runtime on this thread. Blocking threads resolve names and write files: there are enough of them that
/// names whose servers do not answer leave some for the rest.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(64)
        .thread_name("blocking")
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        args::command::<Cli>().debug_assert();
    }

    #[test]
    fn every_flag_and_the_token_have_their_variables() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let token = (arg.get_id() == "token").then_some("token");
                let Some(name) = arg.get_long().or(token) else { continue };
                let name = format!("CFRAME_EDGE_{}", name.replace('-', "_").to_uppercase());
                assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(name.as_str()));
            }
            command.get_subcommands().for_each(check);
        }
        check(&args::command::<Cli>());
    }

    #[test]
    fn common_flags_may_come_before_or_after_the_command() {
        for line in [
            ["cframe-edge", "--data-dir", "/x", "status"],
            ["cframe-edge", "status", "--data-dir", "/x"],
        ] {
            let cli = args::try_parse_from::<Cli, _>(line).unwrap();
            assert_eq!(cli.common.data_dir, Some(PathBuf::from("/x")));
        }
    }
}
