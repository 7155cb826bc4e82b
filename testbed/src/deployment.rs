//! A whole deployment of cframe in a [`Lab`], by its real programs and the commands that a user types.
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
//! mesh.kill9_controller()?;
//! hk.restart()?;                                          // it needs no controller
//! mesh.start_controller()?;
//! # Ok(())
//! # }
//! ```
//!
//! Whatever waits does so for a condition, and its error has the end of the log.

mod controller;
mod edge;
mod prompt;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Host, Lab, Process, Programs, Site};
use controller::{Files, Origin};

pub use controller::Controller;
pub use edge::{Edge, Enrolment};
pub use prompt::{Output, Transcript};

/// How long a command may take; the programs' own time-outs are shorter.
const COMMAND: Duration = Duration::from_secs(30);

/// A mesh with its controllers, one at first, and an operator who manages it on the first one's host. Dropping it
/// kills the controllers; the edges are their own.
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
    /// Makes the mesh `lab` with its controller on `host`, and waits until that is ready. There is no namespace yet.
    pub fn start(lab: &Lab, host: &Host) -> Result<Self> {
        Self::start_mesh("lab", lab.dir(), host, Transcript::default())
    }

    /// The same for a mesh of another name, in a directory of its own below `dir`, with a transcript.
    pub fn start_mesh(mesh: &str, dir: &Path, host: &Host, transcript: Transcript) -> Result<Self> {
        Self::start_configured(mesh, dir, host, transcript, "")
    }

    /// Whether there is a mesh of this name below a directory.
    pub fn is_made(mesh: &str, dir: &Path) -> bool {
        Files::of(mesh, dir).contexts().exists()
    }

    /// As [`start_configured`](Self::start_configured) for a mesh that may have been made there by an earlier run, on a
    /// host of the same addresses.
    pub fn start_or_resume(
        mesh: &str,
        dir: &Path,
        host: &Host,
        transcript: Transcript,
        config: &str,
    ) -> Result<Self> {
        let files = Files::of(mesh, dir);
        let origin = if Self::is_made(mesh, dir) {
            Origin::Made
        } else {
            files.make_if_absent()?;
            Origin::Mesh(mesh, config)
        };
        Self::begin(mesh, files, &origin, host, transcript)
    }

    /// The same with a text for the controllers' configuration file: a store that several can share, say.
    pub fn start_configured(
        mesh: &str,
        dir: &Path,
        host: &Host,
        transcript: Transcript,
        config: &str,
    ) -> Result<Self> {
        let files = Files::of(mesh, dir);
        files.make()?;
        Self::begin(mesh, files, &Origin::Mesh(mesh, config), host, transcript)
    }

    fn begin(
        mesh: &str,
        files: Files,
        origin: &Origin<'_>,
        host: &Host,
        transcript: Transcript,
    ) -> Result<Self> {
        let programs = Programs::locate()?;
        let first =
            controller::make(origin, mesh, &files, host, &programs.controller(), transcript)?;
        let (mesh, host) = (mesh.to_owned(), host.clone());
        Ok(Self { mesh, host, files, programs, transcript, controllers: vec![first] })
    }

    /// Has one more controller join, on a host of its own, and waits until it is ready. The store must be one that
    /// several can share.
    pub fn add_controller(&mut self, name: &str, host: &Host) -> Result<&mut Controller> {
        let Self { mesh, files, programs, transcript, controllers, .. } = self;
        let origin = Origin::Join(name);
        let joined =
            controller::make(&origin, mesh, files, host, &programs.controller(), *transcript)?;
        controllers.push(joined);
        let last = controllers.len() - 1;
        Ok(&mut controllers[last])
    }

    /// All controllers, in the order in which they joined.
    pub fn controllers(&mut self) -> &mut [Controller] {
        &mut self.controllers
    }

    /// Its mesh's name.
    pub fn mesh(&self) -> &str {
        &self.mesh
    }

    /// The controller's host, where the operator is too.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The programs it runs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Runs `cfctl` with these arguments as the first admin. A refusal is no error here, see [`Output::code`].
    pub fn ctl(&self, args: &[&str]) -> Result<Output> {
        self.transcript.run(&self.host, self.ctl_command(args), COMMAND)
    }

    /// The same with another file of contexts, such as one that `cfctl admin add --out` has written.
    pub fn ctl_as(&self, contexts: &Path, args: &[&str]) -> Result<Output> {
        let mut command = self.ctl_command(args);
        command.env("CFCTL_CONFIG", contexts);
        self.transcript.run(&self.host, command, COMMAND)
    }

    /// Runs `cfctl`, which has to succeed, and returns its standard output.
    pub fn ctl_ok(&self, args: &[&str]) -> Result<String> {
        self.ctl(args)?.success()
    }

    /// Runs `cfctl -o json` and returns what it answers.
    pub fn ctl_json(&self, args: &[&str]) -> Result<Value> {
        let mut command = self.ctl_command(args);
        command.args(["-o", "json"]);
        prompt::run(command, COMMAND)?.json()
    }

    /// A join token for an edge that is there: what follows `cframe-edge join`.
    pub fn token(&self, namespace: &str, edge: &str) -> Result<String> {
        let said = self.ctl_ok(&["token", "create", "--namespace", namespace, "--edge", edge])?;
        let token = said.split_whitespace().find(|word| word.starts_with("cfj1."));
        Ok(token.with_context(|| format!("no token in {said:?}"))?.to_owned())
    }

    /// An edge that is to be enrolled at a site; by default with the site's name, networks and public addresses, in
    /// the namespace `prod`.
    pub fn edge(&self, site: &Site) -> Enrolment<'_> {
        Enrolment::new(self, site)
    }

    /// Enrols and starts an edge with all of it said.
    pub fn enrol(
        &self,
        site: &Site,
        namespace: &str,
        name: &str,
        cidrs: &[&str],
        endpoints: &[&str],
    ) -> Result<Edge> {
        self.edge(site).namespace(namespace).name(name).cidrs(cidrs).endpoints(endpoints).enrol()
    }

    /// Runs `cframe-edge` with a data directory of its own on any host; for what a user would not do.
    pub fn edge_program(&self, host: &Host, dir: &Path, args: &[&str]) -> Result<Output> {
        let mut command = clean_command(host, self.programs.edge());
        command.args(args).env("CFRAME_EDGE_DATA_DIR", dir);
        prompt::run(command, COMMAND)
    }

    /// The first controller's program, with its log and memory.
    pub fn controller(&self) -> &Process {
        self.controllers[0].process()
    }

    /// The first controller's program, to signal and wait for.
    pub fn controller_mut(&mut self) -> &mut Process {
        self.controllers[0].process_mut()
    }

    /// Kills the first controller with SIGKILL.
    pub fn kill9_controller(&mut self) -> Result<()> {
        self.controllers[0].kill9()
    }

    /// Starts the first controller again after its end, and waits until it is ready.
    pub fn start_controller(&mut self) -> Result<()> {
        self.controllers[0].start()
    }

    /// Stops the first controller with SIGTERM, starts it again, and waits until it is ready.
    pub fn restart_controller(&mut self) -> Result<()> {
        self.controllers[0].restart()
    }

    /// Waits until the first controller's `/readyz` says yes.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.controllers[0].wait_ready()
    }

    /// Waits until all `count` edges of a namespace are connected, have applied the newest state and have all their
    /// links, as `cfctl status` tells: reports come once a second at most.
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
            if start.elapsed() > Duration::from_secs(15) {
                bail!(
                    "not {count} edges in sync in {namespace}: {status:#}\nthe end of the controller's log:\n{}",
                    self.controller().log_tail(20)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ctl_command(&self, args: &[&str]) -> Command {
        let mut command = clean_command(&self.host, self.programs.ctl());
        command.args(args).env("XDG_CONFIG_HOME", self.files.operator());
        command
    }

    fn log_name(&self, program: &str) -> String {
        format!("{}-{program}", self.mesh)
    }
}

/// A command for one of our programs, without settings that come from the caller's environment.
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
