//! Runs what was read.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Action, Commands, Copy, Place, Section, expect};
use crate::deployment::{Output, Transcript};
use crate::{Machine, Pinger, wait_until};

/// Every line that a block runs is noted there before it is run, with its number.
const TRACE: &str = "/run/runbook-trace";
/// Before a block's own lines, on the line of its first.
const PROLOGUE: &str =
    "exec 2>&1 9>\"$TRACE\"; BASH_XTRACEFD=9; PS4='+${LINENO} '; unset TRACE; set -euxo pipefail\n";
/// For entering a host, and for ending what has overrun its time.
const GRACE: Duration = Duration::from_secs(5);
/// Between two runs of a block that is not well yet.
const AGAIN: Duration = Duration::from_millis(200);
/// After which a ping without an answer is lost.
const LATE: Duration = Duration::from_secs(1);
/// How long traffic may take to be steady before a section.
const STEADY: Duration = Duration::from_secs(10);

/// The hosts of a document, and pings whose losses are counted.
#[derive(Debug)]
pub struct Runner {
    machines: BTreeMap<String, Machine>,
    pinger: Pinger,
}

/// What became of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its heading.
    pub title: String,
    /// How long its commands took.
    pub took: Duration,
    /// Pings that were sent meanwhile.
    pub sent: usize,
    /// Those without an answer.
    pub lost: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, took, sent, lost } = self;
        write!(f, "{title}: {took:.1?}, {sent} pings, {lost} lost")
    }
}

impl Runner {
    /// With these hosts, and a ping that goes on.
    pub fn new(machines: Vec<Machine>, pinger: Pinger) -> Self {
        let named = machines.into_iter().map(|machine| (machine.name().to_owned(), machine));
        Self { machines: named.collect(), pinger }
    }

    /// Runs a section.
    ///
    /// # Errors
    /// At the first command that fails, takes too long or prints something else, with its line of the document; or if
    /// more pings were lost than the section allows.
    pub fn section(&self, section: &Section) -> Result<Report> {
        if section.lost.is_some() {
            self.pinger
                .steady(20, STEADY)
                .with_context(|| format!("before {:?}", section.title))?;
        }
        let (first, start) = (self.pinger.stats().sent, Instant::now());
        for step in &section.steps {
            match &step.action {
                Action::Run(commands) => self.commands(step.line, commands)?,
                Action::Copy(copies) => copies.iter().try_for_each(|copy| {
                    self.copy(copy).with_context(|| format!("line {}", copy.line))
                })?,
            }
        }
        let took = start.elapsed();
        let (sent, lost) = self.losses(first);
        let report = Report { title: section.title.clone(), took, sent, lost };
        if let Some(bound) = section.lost {
            ensure!(lost <= bound, "line {}: {report} (bound {bound})", section.line);
        }
        Ok(report)
    }

    /// How many pings were sent from the `first` on, and how many of them have no answer.
    fn losses(&self, first: usize) -> (usize, usize) {
        let until = self.pinger.stats().sent;
        let mut lost = 0;
        let all_in = || {
            let stats = self.pinger.stats();
            let mut missing = stats.probes[first..until].iter().filter(|probe| probe.rtt.is_none());
            lost = missing.by_ref().count();
            lost == 0
        };
        // What is missing then is lost.
        let _ = wait_until(LATE, all_in);
        (until - first, lost)
    }

    fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines.get(name).with_context(|| format!("there is no host {name}"))
    }

    fn commands(&self, line: usize, commands: &Commands) -> Result<()> {
        for host in &commands.hosts {
            let machine = self.machine(host)?;
            let deadline = Instant::now() + commands.within;
            loop {
                match attempt(machine, line, commands) {
                    Err(_) if commands.until && Instant::now() < deadline => {
                        std::thread::sleep(AGAIN);
                    }
                    Err(error) => return Err(error.context(logs(machine))),
                    Ok(()) => break,
                }
            }
        }
        Ok(())
    }

    fn copy(&self, copy: &Copy) -> Result<()> {
        let (from, to) = (self.machine(&copy.from.host)?, self.machine(&copy.to.host)?);
        let mode = shell(from, "stat -c %a \"$0\"", &copy.from)?;
        let mut source = from.command("cat");
        source.arg(&copy.from.path).stdout(Stdio::piped());
        let mut source = source.spawn().context("reading")?;
        let content = source.stdout.take().context("no pipe")?;
        let mut target = to.command("install");
        target.args(["-m", mode.trim(), "/dev/stdin"]).arg(&copy.to.path).stdin(content);
        let target = target.output().context("writing")?;
        ensure!(source.wait()?.success(), "{} can't be read", copy.from.path);
        ensure!(target.status.success(), "{}", String::from_utf8_lossy(&target.stderr).trim());
        Ok(())
    }
}

/// Runs a block once on one host.
fn attempt(machine: &Machine, line: usize, commands: &Commands) -> Result<()> {
    let mut command = machine.command("timeout");
    let script = format!("{PROLOGUE}{}", commands.script);
    let seconds = format!("{:.3}", commands.within.as_secs_f64());
    command.args(["--kill-after=1", &seconds, "bash", "-c", &script]).env("TRACE", TRACE);
    let quiet = Transcript::default();
    let output = quiet.run(machine.host(), command, commands.within + GRACE);
    let output = output.with_context(|| format!("line {line}, on {}", machine.name()))?;
    let printed = output.stdout.trim_end();
    if output.code != 0 {
        let (at, what) = reached(machine, line, &commands.script);
        let how = match output.code {
            124 | 137 => format!("has not ended within {:?}", commands.within),
            code => format!("has failed with {code}"),
        };
        bail!("line {at}, on {}: `{what}` {how}:\n{printed}", machine.name());
    }
    if let Some(missing) = expect::missing(&commands.expected, printed) {
        bail!("line {line}, on {}: no {missing:?} (in its place) in:\n{printed}", machine.name());
    }
    Ok(())
}

/// What a host's services have logged, at the end.
fn logs(machine: &Machine) -> String {
    let all = Place { host: machine.name().to_owned(), path: "/var/log".to_owned() };
    let text = shell(machine, "tail -n 15 \"$0\"/*.log 2>/dev/null || true", &all);
    format!("the logs of {}:\n{}", machine.name(), text.unwrap_or_default())
}

/// The document's line and text of the command that was reached last.
fn reached(machine: &Machine, first: usize, script: &str) -> (usize, String) {
    let trace = Place { host: machine.name().to_owned(), path: TRACE.to_owned() };
    let trace = shell(machine, "cat \"$0\"", &trace).unwrap_or_default();
    let last = trace.lines().rev().find_map(|line| {
        let number = line.strip_prefix('+')?.trim_start_matches('+').split_once(' ')?.0;
        number.parse::<usize>().ok()
    });
    // The prologue is the script's first line.
    let index = last.unwrap_or(2).saturating_sub(2);
    let text = script.lines().nth(index).unwrap_or_default();
    (first + index, text.trim().to_owned())
}

fn shell(machine: &Machine, script: &str, place: &Place) -> Result<String> {
    let mut command = machine.command("sh");
    command.args(["-c", script]).arg(&place.path);
    let output: Output = Transcript::default().run(machine.host(), command, GRACE)?;
    output.success()
}
