//! Runs the sections of a document.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::expect::first_missing;
use super::{Action, Commands, Copy, Section};
use crate::deployment::Transcript;
use crate::machine::Machine;
use crate::ping::Pinger;
use crate::wait::wait_until;

/// bash writes each line of a block to this file before it runs it, with its number.
const TRACE: &str = "/run/runbook-trace";
/// Inserted before the first line of a block.
const PROLOGUE: &str =
    "exec 2>&1 9>\"$TRACE\"; BASH_XTRACEFD=9; PS4='+${LINENO} '; unset TRACE; set -euxo pipefail\n";
/// Time to enter a host, and to end a script that has exceeded its timeout.
const GRACE: Duration = Duration::from_secs(5);
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// A ping without a reply after this time is lost.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// For traffic to be steady before a section.
const STEADY_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs sections on the hosts of a document, while pings show whether traffic is lost.
#[derive(Debug)]
pub struct Runner {
    machines: BTreeMap<String, Machine>,
    pinger: Pinger,
}

/// The result of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub title: String,
    pub took: Duration,
    /// Pings sent during the section.
    pub sent: usize,
    /// Those of them without a reply.
    pub lost: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, took, sent, lost } = self;
        write!(f, "{title}: {took:.1?}, {sent} pings, {lost} lost")
    }
}

impl Runner {
    pub fn new(machines: Vec<Machine>, pinger: Pinger) -> Self {
        let named = machines.into_iter().map(|machine| (machine.name().to_owned(), machine));
        Self { machines: named.collect(), pinger }
    }

    /// Runs a section.
    pub fn run_section(&self, section: &Section) -> Result<Report> {
        if section.max_lost.is_some() {
            self.pinger
                .steady(20, STEADY_TIMEOUT)
                .with_context(|| format!("before {:?}", section.title))?;
        }
        let (first, start) = (self.pinger.stats().sent, Instant::now());
        for step in &section.steps {
            match &step.action {
                Action::Run(commands) => self.run_commands(step.line, commands)?,
                Action::Copy(copies) => copies.iter().try_for_each(|copy| {
                    self.copy_file(copy).with_context(|| format!("line {}", copy.line))
                })?,
            }
        }
        let took = start.elapsed();
        let (sent, lost) = self.losses(first);
        let report = Report { title: section.title.clone(), took, sent, lost };
        if let Some(bound) = section.max_lost {
            ensure!(lost <= bound, "line {}: {report} (bound {bound})", section.line);
        }
        Ok(report)
    }

    /// How many pings were sent from the `first` on, and how many of them have no reply.
    fn losses(&self, first: usize) -> (usize, usize) {
        let until = self.pinger.stats().sent;
        let mut lost = 0;
        let all_replied = || {
            let stats = self.pinger.stats();
            lost = stats.probes[first..until].iter().filter(|probe| probe.rtt.is_none()).count();
            lost == 0
        };
        // If this fails, the pings without a reply are lost.
        let _ = wait_until(PING_TIMEOUT, all_replied);
        (until - first, lost)
    }

    fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines.get(name).with_context(|| format!("there is no host {name}"))
    }

    fn run_commands(&self, line: usize, commands: &Commands) -> Result<()> {
        for host in &commands.hosts {
            let machine = self.machine(host)?;
            let deadline = Instant::now() + commands.timeout;
            loop {
                match run_script(machine, line, commands) {
                    Err(_) if commands.repeat && Instant::now() < deadline => {
                        std::thread::sleep(RETRY_DELAY);
                    }
                    Err(error) => return Err(error.context(service_logs(machine))),
                    Ok(()) => break,
                }
            }
        }
        Ok(())
    }

    fn copy_file(&self, copy: &Copy) -> Result<()> {
        let (from, to) = (self.machine(&copy.from.host)?, self.machine(&copy.to.host)?);
        let mode = shell(from, "stat -c %a \"$0\"", &copy.from.path)?;
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
fn run_script(machine: &Machine, line: usize, commands: &Commands) -> Result<()> {
    let mut command = machine.command("timeout");
    let script = format!("{PROLOGUE}{}", commands.script);
    let seconds = format!("{:.3}", commands.timeout.as_secs_f64());
    command.args(["--kill-after=1", &seconds, "bash", "-c", &script]).env("TRACE", TRACE);
    let output = Transcript::default().run(machine.host(), command, commands.timeout + GRACE);
    let output = output.with_context(|| format!("line {line}, on {}", machine.name()))?;
    let printed = output.stdout.trim_end();
    if output.code != 0 {
        let (at, what) = last_command(machine, line, &commands.script);
        let how = match output.code {
            124 | 137 => format!("has not ended within {:?}", commands.timeout),
            code => format!("has failed with {code}"),
        };
        bail!("line {at}, on {}: `{what}` {how}:\n{printed}", machine.name());
    }
    if let Some(missing) = first_missing(&commands.expected, printed) {
        bail!("line {line}, on {}: no {missing:?} (in this order) in:\n{printed}", machine.name());
    }
    Ok(())
}

/// The ends of the logs of a host's services.
fn service_logs(machine: &Machine) -> String {
    let text = shell(machine, "tail -n 15 \"$0\"/*.log 2>/dev/null || true", "/var/log");
    format!("the logs of {}:\n{}", machine.name(), text.unwrap_or_default())
}

/// The document's line and text of the command that was started last.
fn last_command(machine: &Machine, first: usize, script: &str) -> (usize, String) {
    let trace = shell(machine, "cat \"$0\"", TRACE).unwrap_or_default();
    let last = trace.lines().rev().find_map(|line| {
        let number = line.strip_prefix('+')?.trim_start_matches('+').split_once(' ')?.0;
        number.parse::<usize>().ok()
    });
    // The prologue is the script's first line.
    let index = last.unwrap_or(2).saturating_sub(2);
    let text = script.lines().nth(index).unwrap_or_default();
    (first + index, text.trim().to_owned())
}

/// Runs a shell script with `argument` as `$0`.
fn shell(machine: &Machine, script: &str, argument: &str) -> Result<String> {
    let mut command = machine.command("sh");
    command.args(["-c", script, argument]);
    Transcript::default().run(machine.host(), command, GRACE)?.success()
}
