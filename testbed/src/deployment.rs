//! A deployment of cframe in a [`Lab`], made with the real programs and the commands that a user types.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use cframe_testbed::deployment::Deployment;
//! use cframe_testbed::{Lab, ThreeSites, privilege};
//!
//! privilege::ensure()?;
//! let mut lab = Lab::new("example")?;
//! let three = ThreeSites::build(&mut lab, None)?;
//! let mut mesh = Deployment::start(&lab, &three.controller)?;
//! mesh.ctl_ok(&["namespace", "add", "prod"])?;
//! let mut hk = mesh.edge(&three.aws_hk).enrol()?;
//! let mut idc = mesh.edge(&three.idc).endpoints(&["198.18.0.7:58423"]).enrol()?;
//! hk.wait_links(1)?;
//! idc.wait_synced()?;
//! let refused = mesh.ctl(&["route", "add", "r", "-n", "prod", "--cidr", "10.60.6.0/25", "--edge", "aws-hk"])?;
//! assert_eq!(refused.code, 4);
//! mesh.controller_mut().kill9()?;
//! hk.restart()?;                                          // it needs no controller
//! mesh.controller_mut().start()?;
//! # Ok(())
//! # }
//! ```
//!
//! Functions that wait have the end of the log in their errors.

mod controller;
mod edge;
mod http;
mod operator;
mod prompt;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::Host;
use crate::lab::{Lab, Site};
use crate::programs::Programs;
use controller::{Files, Origin};

pub use controller::Controller;
pub use edge::{Edge, Enrolment};
pub use http::http_get;
pub use operator::Operator;
pub use prompt::{Output, Transcript};

/// Longer than the programs' own time-outs.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
const SYNC_TIMEOUT: Duration = Duration::from_secs(15);

/// A mesh with one or several controllers, and an operator on the host of the first. Dropping it kills the
/// controllers, but not the edges.
#[derive(Debug)]
pub struct Deployment {
    mesh: String,
    host: Host,
    files: Files,
    programs: Programs,
    transcript: Transcript,
    /// Never empty.
    controllers: Vec<Controller>,
}

impl Deployment {
    /// Creates a mesh named `lab`, without namespaces, and waits until its controller on `host` is ready.
    pub fn start(lab: &Lab, host: &Host) -> Result<Self> {
        Self::start_mesh("lab", lab.dir(), host, Transcript::default())
    }

    /// Creates a mesh with its files in a directory below `dir`. Commands are shown in `transcript`.
    pub fn start_mesh(mesh: &str, dir: &Path, host: &Host, transcript: Transcript) -> Result<Self> {
        let files = Files::new(mesh, dir);
        files.create_dir()?;
        Self::start_first(mesh, files, &Origin::New { config: "" }, host, transcript)
    }

    /// Whether a mesh of this name has files below `dir`.
    pub fn exists(mesh: &str, dir: &Path) -> bool {
        Files::new(mesh, dir).contexts().exists()
    }

    /// Starts the mesh that an earlier run has created below `dir` on a host with the same addresses, or creates it
    /// with `config` as its controllers' configuration file.
    pub fn start_or_resume(mesh: &str, dir: &Path, host: &Host, config: &str) -> Result<Self> {
        let files = Files::new(mesh, dir);
        let origin = if files.contexts().exists() {
            Origin::Existing
        } else {
            files.create_dir()?;
            Origin::New { config }
        };
        Self::start_first(mesh, files, &origin, host, Transcript::default())
    }

    fn start_first(
        mesh: &str,
        files: Files,
        origin: &Origin<'_>,
        host: &Host,
        transcript: Transcript,
    ) -> Result<Self> {
        let programs = Programs::locate()?;
        let first =
            controller::start(origin, mesh, &files, host, &programs.controller(), transcript)?;
        let (mesh, host) = (mesh.to_owned(), host.clone());
        Ok(Self { mesh, host, files, programs, transcript, controllers: vec![first] })
    }

    /// Lets another controller join, on its own host, and waits until it is ready. The store must be one that several
    /// controllers can share.
    pub fn add_controller(&mut self, name: &str, host: &Host) -> Result<()> {
        let Self { mesh, files, programs, transcript, controllers, .. } = self;
        let origin = Origin::Join { name };
        let program = programs.controller();
        controllers.push(controller::start(&origin, mesh, files, host, &program, *transcript)?);
        Ok(())
    }

    /// All controllers, in the order in which they joined.
    pub fn controllers(&mut self) -> &mut [Controller] {
        &mut self.controllers
    }

    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Runs `cfctl` as the first admin, to its end. Errors of `cfctl` are in [`Output::code`].
    pub fn ctl(&self, args: &[&str]) -> Result<Output> {
        self.transcript.run(&self.host, self.ctl_command(args), COMMAND_TIMEOUT)
    }

    /// Runs `cfctl` with another file of contexts, such as one that `cfctl admin add --out` has written.
    pub fn ctl_as(&self, contexts: &Path, args: &[&str]) -> Result<Output> {
        let mut command = self.ctl_command(args);
        command.env("CFCTL_CONFIG", contexts);
        self.transcript.run(&self.host, command, COMMAND_TIMEOUT)
    }

    /// Runs `cfctl`, which has to succeed, and returns its standard output.
    pub fn ctl_ok(&self, args: &[&str]) -> Result<String> {
        self.ctl(args)?.success()
    }

    /// Runs `cfctl -o json` and returns its output, for any exit code.
    pub fn ctl_json(&self, args: &[&str]) -> Result<Value> {
        let mut command = self.ctl_command(args);
        command.args(["-o", "json"]);
        prompt::run(command, COMMAND_TIMEOUT)?.json()
    }

    /// The first admin, for commands beside those of this deployment's owner, such as on another thread.
    pub fn operator(&self) -> Operator {
        Operator::new(&self.host, &self.programs, &self.files)
    }

    /// Creates a join token for an existing edge, the argument of `cframe-edge join`.
    pub fn token(&self, namespace: &str, edge: &str) -> Result<String> {
        self.token_with(&["--namespace", namespace, "--edge", edge])
    }

    /// Runs `cfctl token create` with these arguments, and returns the token.
    pub fn token_with(&self, args: &[&str]) -> Result<String> {
        let stdout = self.ctl_ok(&[&["token", "create"], args].concat())?;
        let token = stdout.split_whitespace().find(|word| word.starts_with("cfj1."));
        Ok(token.with_context(|| format!("no token in {stdout:?}"))?.to_owned())
    }

    /// An edge to be enrolled at a site; by default in the namespace `prod`, with the site's name, networks and public
    /// addresses.
    pub fn edge(&self, site: &Site) -> Enrolment<'_> {
        Enrolment::new(self, site)
    }

    /// Runs `cframe-edge` with the data directory `dir` on any host, to its end.
    pub fn edge_program(&self, host: &Host, dir: &Path, args: &[&str]) -> Result<Output> {
        let mut command = clean_command(host, self.programs.edge());
        command.args(args).env("CFRAME_EDGE_DATA_DIR", dir);
        prompt::run(command, COMMAND_TIMEOUT)
    }

    /// The first controller.
    pub fn controller(&self) -> &Controller {
        &self.controllers[0]
    }

    pub fn controller_mut(&mut self) -> &mut Controller {
        &mut self.controllers[0]
    }

    /// Waits until `cfctl status` shows `count` edges of a namespace online, all of them in sync and with all their
    /// links. Edges report at most once a second.
    pub fn wait_in_sync(&self, namespace: &str, count: u32) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            let status = self.ctl_json(&["status"])?;
            let row = status["namespaces"]
                .as_array()
                .and_then(|rows| rows.iter().find(|row| row["name"] == namespace).cloned())
                .unwrap_or_default();
            if row["online"] == count
                && row["in_sync"] == count
                && row["links_up"] == row["links_expected"]
            {
                return Ok(());
            }
            if start.elapsed() > SYNC_TIMEOUT {
                bail!(
                    "not {count} edges in sync in {namespace}: {status:#}\nthe end of the controller's log:\n{}",
                    self.controller().process().log_tail(20)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ctl_command(&self, args: &[&str]) -> Command {
        self.operator().command(args)
    }

    fn log_name(&self, program: &str) -> String {
        format!("{}-{program}", self.mesh)
    }
}

/// A command for one of our programs, without settings from the caller's environment.
fn clean_command(host: &Host, program: PathBuf) -> Command {
    let mut command = host.command(program);
    for (name, _) in std::env::vars_os() {
        let name_bytes = name.as_encoded_bytes();
        if name_bytes.starts_with(b"CFRAME_") || name_bytes.starts_with(b"CFCTL_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1");
    command
}
