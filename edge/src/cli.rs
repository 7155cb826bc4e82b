//! The program `cframe-edge`: its commands, its exit codes, and where its errors are printed.

mod daemon;
mod enroll;
mod exit;
mod log;
mod look;

use std::{path::PathBuf, process::ExitCode};

use cframe_console::{args, exit::Exit, output};
use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{Flags, Place};
use exit::exit_code;

/// The gateway of a cframe mesh.
#[derive(Debug, Parser)]
#[command(name = "cframe-edge", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a mesh with a token of `cfctl token create`
    ///
    /// Makes a key on this host, has the controller certify it, and writes identity and configuration.
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
        flags: Flags,
    },
    /// Show the running gateway: links, routes, state, certificate
    Status {
        /// Form of the output
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Look for what is wrong on this host; exit code 7 if something is
    Doctor {
        /// Form of the output
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Remove what a stopped gateway leaves: device, routing table, rules
    Down,
    /// Print a signing request for `cfctl cert enroll`, for a host that reaches no controller yet
    Csr,
    /// Take the answer of `cfctl cert enroll` to the signing request
    Import {
        /// The file that it has written, enrolled.json, or its directory; - for standard input
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
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Form of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Parses the command line and does it.
pub fn main() -> ExitCode {
    let Cli { place, command } = args::parse();
    match dispatch(&place, command) {
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

fn dispatch(place: &Place, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Join { token, listen, replace } => enroll::join(place, &token, listen, replace),
        Command::Run { flags } => daemon::run(place, &flags),
        Command::Status { output } => look::status(place, output),
        Command::Doctor { output } => look::doctor(place, output),
        Command::Down => daemon::down(place),
        Command::Csr => enroll::csr(place),
        Command::Import { answer, listen, replace } => {
            enroll::import(place, &answer, listen, replace)
        }
        Command::Version => {
            Ok(output::print(concat!("cframe-edge ", env!("CARGO_PKG_VERSION"), "\n"))?)
        }
        Command::Completion { shell } => {
            Ok(output::print(&output::completion(args::command::<Cli>(), shell))?)
        }
    }
}

/// A runtime on this thread. Threads besides resolve names and write files: enough of them that names
/// whose servers are silent leave some for the rest.
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
    fn flags_of_place_stand_before_or_after_the_command() {
        for line in [
            ["cframe-edge", "--data-dir", "/x", "status"],
            ["cframe-edge", "status", "--data-dir", "/x"],
        ] {
            let cli = args::try_parse_from::<Cli, _>(line).unwrap();
            assert_eq!(cli.place.data_dir, Some(PathBuf::from("/x")));
        }
    }
}
