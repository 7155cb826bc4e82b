//! Runs programs as a person at a host's prompt does, and shows the commands and their output.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use crate::host::Host;
use crate::tool;

/// The result of a program that ran to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The command as a person would type it.
    pub command: String,
    pub stdout: String,
    pub stderr: String,
    /// The exit code; after a signal 128 plus its number, as in shells.
    pub code: i32,
}

impl Output {
    /// The standard output, or an error with all output if the exit code is not 0.
    pub fn success(self) -> Result<String> {
        if self.code != 0 {
            bail!("{self}");
        }
        Ok(self.stdout)
    }

    /// The standard output as JSON. The exit code may be any: `status` exits with 7 if something is unhealthy.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not the JSON expected: {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` exited with {}", self.command, self.code)?;
        for text in [&self.stderr, &self.stdout] {
            if !text.trim().is_empty() {
                write!(f, "\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Shows commands and their output line by line; by default it shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transcript {
    print: Option<fn(&str)>,
}

impl Transcript {
    /// Shows each line with `print`.
    pub fn new(print: fn(&str)) -> Self {
        Self { print: Some(print) }
    }

    /// Shows a command at a host's prompt.
    pub fn typed(&self, host: &Host, command: &str) {
        self.line(&format!("{} $ {command}", host.name()));
    }

    /// Runs a command to its end on a host, and shows it with its output.
    ///
    /// # Errors
    /// If it can't be started, or takes longer than `timeout`. An exit code other than 0 is not an error.
    pub fn run(&self, host: &Host, command: Command, timeout: Duration) -> Result<Output> {
        self.typed(host, &as_typed(&command));
        let output = run(command, timeout).with_context(|| format!("on {}", host.name()))?;
        // Most programs write messages before their result.
        for line in output.stderr.lines().chain(output.stdout.lines()) {
            if !line.trim().is_empty() {
                self.line(&format!("  {line}"));
            }
        }
        Ok(output)
    }

    fn line(&self, text: &str) {
        if let Some(print) = self.print {
            print(text);
        }
    }
}

/// Runs a command to its end.
pub(super) fn run(mut command: Command, timeout: Duration) -> Result<Output> {
    let typed = as_typed(&command);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| tool::cannot_start(&command, error))?;
    let pid = Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let ended = ended.recv_timeout(timeout).map_err(|_| {
        // It is not reaped, so no other process can have its number.
        let killed = kill_process(pid, Signal::KILL);
        anyhow!("`{typed}` was not done within {timeout:?}; killed: {killed:?}")
    })?;
    let output = ended.with_context(|| format!("waiting for `{typed}`"))?;
    Ok(Output {
        command: typed,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: code(output.status),
    })
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// The command line, without the program's directory, and quoted where a shell needs it.
pub(super) fn as_typed(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut typed = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+[]".contains(c);
        let written = if !argument.is_empty() && argument.chars().all(plain) {
            write!(typed, " {argument}")
        } else {
            write!(typed, " '{}'", argument.replace('\'', r"'\''"))
        };
        written.expect("a String takes all");
    }
    typed
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(5);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn stdout_stderr_and_the_exit_code_are_separate() {
        let output = run(shell("echo '[1]'; echo oh >&2; exit 4"), SECOND).unwrap();
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str(), output.code),
            ("[1]\n", "oh\n", 4)
        );
        assert_eq!(output.clone().json::<Vec<u8>>().unwrap(), [1]);
        let error = output.success().unwrap_err().to_string();
        assert!(error.contains("exited with 4") && error.contains("oh"), "{error}");
        assert_eq!(run(shell("kill -9 $$"), SECOND).unwrap().code, 137);
    }

    #[test]
    fn a_program_that_hangs_is_killed_and_named_in_the_error() {
        let error = run(shell("exec sleep 60"), Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("sleep 60"), "{error}");
    }

    #[test]
    fn commands_look_as_typed() {
        let mut command = Command::new("/opt/bin/cfctl");
        command.args(["edge", "add", "a", "--description", "it's ours", ""]);
        assert_eq!(as_typed(&command), r"cfctl edge add a --description 'it'\''s ours' ''");
    }
}
