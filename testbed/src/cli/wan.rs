use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};

use crate::lab::ExistingLab;
use crate::wan::{self, Request, WanPath, WanStatus};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Set the conditions between two sites
    ///
    /// They replace all previous conditions of the pair; options that are not given are off. A
    /// delay is one way: with 65ms in both directions a ping takes 130 ms. Packets are judged one by
    /// one, also those in super-packets: size, loss, the bottleneck's queue, then delay, reordering,
    /// duplication. The same seed and the same packets give the same losses.
    #[command(after_help = "Example: testbed wan set aliyun-sz aws-hk --delay 65ms --loss 1%")]
    Set(Box<Set>),
    /// Remove all conditions between two sites
    Clear(Pair),
    /// Show the conditions, and counters since they were set
    Show {
        /// Output format
        #[arg(short, long, default_value = "text")]
        output: Output,
        /// ID of the lab, if several are up
        #[arg(long, value_name = "ID")]
        lab: Option<String>,
    },
    /// Run the emulator in this network namespace, for the lab in a directory
    #[command(hide = true)]
    Run {
        /// Directory of the lab
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Pair {
    /// A site, or a host on the internet such as controller
    #[arg(value_name = "SITE")]
    from: String,
    /// Another site or host
    #[arg(value_name = "SITE")]
    to: String,
    /// Only packets from the first to the second
    #[arg(long)]
    one_way: bool,
    /// ID of the lab, if several are up
    #[arg(long, value_name = "ID")]
    lab: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    #[command(flatten)]
    pair: Pair,
    #[command(flatten)]
    path: WanPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
}

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Set(set) => {
            let Set { pair, path } = *set;
            // Checked before an emulator is started for it.
            path.check()?;
            let lab = ExistingLab::find(pair.lab.as_deref())?;
            let mut statuses =
                lab.send_wan_request(&Request::Set { pairs: pair.directions(), path })?;
            statuses.retain(|status| pair.includes(status));
            print_statuses(&statuses);
            Ok(())
        }
        Command::Clear(pair) => {
            let lab = ExistingLab::find(pair.lab.as_deref())?;
            let before = lab.try_wan_request(&Request::Show)?.unwrap_or_default();
            lab.try_wan_request(&Request::Clear { pairs: pair.directions() })?;
            ensure!(
                before.iter().any(|status| pair.includes(status)),
                "there are no conditions between {} and {}: `testbed wan show` shows all conditions",
                pair.from,
                pair.to
            );
            Ok(())
        }
        Command::Show { output, lab } => {
            let lab = ExistingLab::find(lab.as_deref())?;
            let statuses = lab.try_wan_request(&Request::Show)?.unwrap_or_default();
            match output {
                Output::Text => print_statuses(&statuses),
                Output::Json => {
                    println!("{}", serde_json::to_string_pretty(&statuses).context("as JSON")?);
                }
            }
            Ok(())
        }
        Command::Run { dir } => wan::run_emulator(&dir),
    }
}

impl Pair {
    fn directions(&self) -> Vec<(String, String)> {
        let there = (self.from.clone(), self.to.clone());
        let back = (self.to.clone(), self.from.clone());
        if self.one_way { vec![there] } else { vec![there, back] }
    }

    fn includes(&self, status: &WanStatus) -> bool {
        self.directions().iter().any(|(from, to)| (from, to) == (&status.from, &status.to))
    }
}

fn print_statuses(statuses: &[WanStatus]) {
    if statuses.is_empty() {
        println!("No conditions are set: `testbed wan set SITE SITE --delay 20ms` sets a delay");
    }
    for WanStatus { from, to, path, counters } in statuses {
        println!("{from} -> {to}: {path}\n    {counters}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<Command, String> {
        let words = std::iter::once("wan").chain(line.split(' '));
        Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_options_of_set_are_the_conditions() {
        let Ok(Command::Set(set)) = parse("set aliyun-sz aws-hk --delay 65ms --loss 1%") else {
            panic!("not parsed");
        };
        let delay = Duration::from_millis(65);
        assert_eq!(set.path, WanPath { delay, loss: 1.0, ..WanPath::default() });
        assert_eq!(set.pair.directions().len(), 2);
        let Ok(Command::Set(set)) = parse("set a b --one-way") else { panic!("not parsed") };
        assert_eq!(set.path, WanPath::default());
        assert_eq!(set.pair.directions(), [("a".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn errors_name_the_value_and_suggest_a_fix() {
        for (line, part) in [
            ("set a b --delay 65", "did you mean 65ms?"),
            ("set a b --loss 1", "did you mean 1%?"),
            ("set a b --queue 5ms", "--rate <RATE>"),
            ("set a b --icmp", "--mtu <BYTES>"),
            ("set a b --mtu 70000", "70000"),
            ("set a", "<SITE>"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn the_help_of_set_is_about_the_command() {
        let mut cli = Cli::command();
        let set = cli.find_subcommand_mut("set").unwrap();
        assert_eq!(set.get_about().unwrap().to_string(), "Set the conditions between two sites");
    }
}
