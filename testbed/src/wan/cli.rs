//! `testbed wan`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};

use super::protocol::{Request, WanStatus};
use super::{WanPath, notation, server};
use crate::lab;

/// Conditions between the sites of a lab, by hand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set the conditions between two sites
    ///
    /// They hold from now on, in place of all those set before; what isn't named is off. A delay is
    /// one way: with 65ms in both directions a ping takes 130 ms. Packets are judged one by one, also
    /// those in super-packets: size, loss, the bottleneck's queue, then delay, reordering,
    /// duplication. The same seed and the same packets give the same losses.
    #[command(after_help = "Example: testbed wan set aliyun-sz aws-hk --delay 65ms --loss 1%")]
    Set(Box<Set>),
    /// Let everything through between two sites again
    Clear(Pair),
    /// Show the conditions, and what happened since they were set
    Show {
        /// Form of the output
        #[arg(short, long, default_value = "text")]
        output: Output,
        /// The lab's id, if there are several
        #[arg(long, value_name = "ID")]
        lab: Option<String>,
    },
    /// Emulate, in this network namespace, for the lab in a directory
    #[command(hide = true)]
    Run {
        /// The lab's directory
        dir: PathBuf,
    },
}

/// Two sites of a lab.
#[derive(Debug, Args)]
pub struct Pair {
    /// A site, or a host on the internet such as controller
    #[arg(value_name = "SITE")]
    from: String,
    /// Another one
    #[arg(value_name = "SITE")]
    to: String,
    /// Only from the first to the second
    #[arg(long)]
    one_way: bool,
    /// The lab's id, if there are several
    #[arg(long, value_name = "ID")]
    lab: Option<String>,
}

/// Conditions as options.
#[derive(Debug, Args)]
pub struct Set {
    #[command(flatten)]
    pair: Pair,
    /// Delay, one way: 65ms, 1.5s, 250us
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = notation::span)]
    delay: Duration,
    /// At most so much more delay, which wanders and keeps the order
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = notation::span)]
    jitter: Duration,
    /// Share of packets that are lost
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = notation::percent)]
    loss: f64,
    /// Lose so many packets in a row, on average
    #[arg(long, value_name = "PACKETS", requires = "loss")]
    burst: Option<f64>,
    /// Share of packets that are late, so that others overtake them
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = notation::percent)]
    reorder: f64,
    /// How late those are
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = notation::span, requires = "reorder")]
    reorder_by: Duration,
    /// Share of packets that arrive twice
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = notation::percent)]
    duplicate: f64,
    /// A bottleneck's rate: 200mbit, 1gbit, 500kbit
    #[arg(long, value_parser = notation::rate)]
    rate: Option<u64>,
    /// How long the bottleneck's queue may get
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = notation::span, requires = "rate")]
    queue: Duration,
    /// Mark ECN-capable packets CE when the queue is more than half full
    #[arg(long, requires = "rate")]
    ecn: bool,
    /// Drop larger packets, fragmentable or not; in bytes
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Answer packets that are too large; otherwise they vanish
    #[arg(long, requires = "mtu")]
    icmp: bool,
    /// Where the random sequences begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// An array of objects.
    Json,
}

/// Carries the command out.
///
/// # Errors
///
/// What is wrong with it, with the value and the remedy.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Set(set) => {
            let path = set.path();
            // Before an emulator is started for it.
            path.check()?;
            let lab = lab::Standing::find(set.pair.lab.as_deref())?;
            let statuses = lab.wan(&Request::Set { pairs: set.pair.directions(), path })?;
            show(&statuses.into_iter().filter(|status| set.pair.is(status)).collect::<Vec<_>>());
            Ok(())
        }
        Command::Clear(pair) => {
            let lab = lab::Standing::find(pair.lab.as_deref())?;
            let before = lab.wan_if_running(&Request::Show)?.unwrap_or_default();
            lab.wan_if_running(&Request::Clear { pairs: pair.directions() })?;
            ensure!(
                before.iter().any(|status| pair.is(status)),
                "there are no conditions between {} and {}: `testbed wan show` shows those there are",
                pair.from,
                pair.to
            );
            Ok(())
        }
        Command::Show { output, lab } => {
            let lab = lab::Standing::find(lab.as_deref())?;
            let statuses = lab.wan_if_running(&Request::Show)?.unwrap_or_default();
            match output {
                Output::Text => show(&statuses),
                Output::Json => {
                    println!("{}", serde_json::to_string_pretty(&statuses).context("as JSON")?);
                }
            }
            Ok(())
        }
        Command::Run { dir } => server::run(&dir),
    }
}

impl Set {
    fn path(&self) -> WanPath {
        WanPath {
            delay: self.delay,
            jitter: self.jitter,
            loss: self.loss,
            burst: self.burst,
            reorder: self.reorder,
            reorder_by: self.reorder_by,
            duplicate: self.duplicate,
            rate: self.rate,
            queue: self.queue,
            ecn: self.ecn,
            mtu: self.mtu,
            icmp: self.icmp,
            seed: self.seed,
        }
    }
}

impl Pair {
    fn directions(&self) -> Vec<(String, String)> {
        let there = (self.from.clone(), self.to.clone());
        let back = (self.to.clone(), self.from.clone());
        if self.one_way { vec![there] } else { vec![there, back] }
    }

    fn is(&self, status: &WanStatus) -> bool {
        self.directions().iter().any(|(from, to)| (from, to) == (&status.from, &status.to))
    }
}

fn show(statuses: &[WanStatus]) {
    if statuses.is_empty() {
        println!("No conditions: `testbed wan set SITE SITE --delay 20ms` sets some");
    }
    for WanStatus { from, to, path, counters } in statuses {
        println!("{from} -> {to}: {path}\n    {counters}");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

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
            panic!("not understood");
        };
        let delay = Duration::from_millis(65);
        assert_eq!(set.path(), WanPath { delay, loss: 1.0, ..WanPath::default() });
        assert_eq!(set.pair.directions().len(), 2);
        let Ok(Command::Set(set)) = parse("set a b --one-way") else { panic!("not understood") };
        assert_eq!(set.path(), WanPath::default());
        assert_eq!(set.pair.directions(), [("a".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn a_wrong_value_is_named_with_the_remedy() {
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
}
