use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::controller::Files;
use super::prompt::{self, Output};
use super::{COMMAND_TIMEOUT, clean_command};
use crate::host::Host;
use crate::programs::Programs;

/// The first admin of a mesh, on the host of its first controller. It shows no commands.
#[derive(Clone, Debug)]
pub struct Operator {
    host: Host,
    programs: Programs,
    config: PathBuf,
}

impl Operator {
    pub(super) fn new(host: &Host, programs: &Programs, files: &Files) -> Self {
        Self { host: host.clone(), programs: programs.clone(), config: files.operator() }
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = clean_command(&self.host, self.programs.ctl());
        command.args(args).env("XDG_CONFIG_HOME", &self.config);
        command
    }

    /// Runs `cfctl -o json`, and returns its exit code and its output.
    pub fn json(&self, args: &[&str]) -> Result<(i32, Value)> {
        let mut command = self.command(args);
        command.args(["-o", "json"]);
        let output = prompt::run(command, COMMAND_TIMEOUT)?;
        Ok((output.code, output.json()?))
    }

    /// Runs a line in the operator's shell, where `cfctl` is found.
    pub fn shell(&self, line: &str) -> Result<Output> {
        let mut command = clean_command(&self.host, "sh".into());
        command.args(["-c", line]).env("XDG_CONFIG_HOME", &self.config);
        command.env("PATH", self.programs.search_path());
        prompt::run(command, COMMAND_TIMEOUT)
    }
}
