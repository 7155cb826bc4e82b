use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use ipnet::IpNet;
use serde_json::Value;

use super::prompt::{Output, Transcript, as_typed, run};
use super::{COMMAND_TIMEOUT, Deployment, clean_command};
use crate::host::Host;
use crate::lab::Site;
use crate::process::{Process, last_lines};
use crate::programs::Programs;

const TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Each query of the status is a process.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const LINK_PORT: u16 = 58423;

/// The settings of a new edge; see [`Deployment::edge`].
#[derive(Debug)]
pub struct Enrolment<'a> {
    deployment: &'a Deployment,
    site: Site,
    namespace: String,
    name: String,
    cidrs: Vec<String>,
    endpoints: Vec<String>,
    args: Vec<String>,
}

impl<'a> Enrolment<'a> {
    pub(super) fn new(deployment: &'a Deployment, site: &Site) -> Self {
        let public = if site.nat().is_none() { site.uplink().addresses() } else { Vec::new() };
        let endpoint = |net: &IpNet| match net {
            IpNet::V4(net) => format!("{}:{LINK_PORT}", net.addr()),
            IpNet::V6(net) => format!("[{}]:{LINK_PORT}", net.addr()),
        };
        Self {
            deployment,
            site: site.clone(),
            namespace: "prod".to_owned(),
            name: site.name().to_owned(),
            cidrs: site.edge().addresses().iter().map(|net| net.trunc().to_string()).collect(),
            endpoints: public.iter().map(endpoint).collect(),
            args: Vec::new(),
        }
    }

    /// An existing namespace; `prod` by default.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// The edge's name; by default that of the site.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// The edge's prefixes; by default all networks inside the site.
    #[must_use]
    pub fn cidrs(self, cidrs: &[&str]) -> Self {
        Self { cidrs: owned(cidrs), ..self }
    }

    /// The edge's endpoints, `HOST:PORT`; by default the site's public addresses of both families, or none behind a
    /// NAT.
    #[must_use]
    pub fn endpoints(self, endpoints: &[&str]) -> Self {
        Self { endpoints: owned(endpoints), ..self }
    }

    /// More arguments for `cframe-edge run`, such as `--snat`.
    #[must_use]
    pub fn args(self, args: &[&str]) -> Self {
        Self { args: owned(args), ..self }
    }

    /// Removes the data directory that an earlier edge of this name has left.
    pub fn without_old_files(self) -> Result<Self> {
        let dir = self.deployment.files.edge(&self.namespace, &self.name);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", dir.display()))
            }
            Ok(()) | Err(_) => Ok(self),
        }
    }

    /// Runs `cfctl edge add` and nothing else.
    pub fn add(&self) -> Result<()> {
        let mut add = vec!["edge", "add", &self.name, "--namespace", &self.namespace];
        for cidr in &self.cidrs {
            add.extend(["--cidr", cidr]);
        }
        for endpoint in &self.endpoints {
            add.extend(["--endpoint", endpoint]);
        }
        self.deployment.ctl_ok(&add)?;
        Ok(())
    }

    /// Adds the edge, creates a token, joins with it and starts the edge, as a user would. Returns when the edge serves
    /// its local socket, which is before it has links.
    pub fn enrol(self) -> Result<Edge> {
        self.add()?;
        let token = self.deployment.token(&self.namespace, &self.name)?;
        self.join(&token)
    }

    /// Joins with a token and starts the edge: the part that a user does on the gateway.
    pub fn join(self, token: &str) -> Result<Edge> {
        let Self { deployment, site, namespace, name, args, .. } = self;
        let gateway = Gateway {
            dir: deployment.files.edge(&namespace, &name),
            host: site.edge().clone(),
            programs: deployment.programs.clone(),
            transcript: deployment.transcript,
        };
        gateway.run(&["join", token])?.success()?;
        let args: Vec<&str> = ["run"].into_iter().chain(args.iter().map(String::as_str)).collect();
        let process =
            gateway.spawn(&deployment.log_name(&format!("edge-{namespace}-{name}")), &args)?;
        let mut edge = Edge { site, name, gateway, process };
        edge.wait_serving()?;
        Ok(edge)
    }
}

/// Where the commands of an edge run.
#[derive(Clone, Debug)]
struct Gateway {
    dir: PathBuf,
    host: Host,
    programs: Programs,
    transcript: Transcript,
}

impl Gateway {
    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = clean_command(&self.host, self.programs.edge());
        command.args(args).env("CFRAME_EDGE_DATA_DIR", &self.dir);
        command
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        self.transcript.run(&self.host, self.command(args), COMMAND_TIMEOUT)
    }

    fn spawn(&self, log: &str, args: &[&str]) -> Result<Process> {
        let command = self.command(args);
        self.transcript.typed(&self.host, &format!("{} &", as_typed(&command)));
        self.host.spawn(log, command)
    }

    fn status(&self) -> Result<Value> {
        run(self.command(&["status", "-o", "json"]), COMMAND_TIMEOUT)?.json()
    }
}

/// A running edge: one `cframe-edge run` on the edge host of a site. Dropping it kills it.
#[derive(Debug)]
pub struct Edge {
    site: Site,
    name: String,
    gateway: Gateway,
    process: Process,
}

impl Edge {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn site(&self) -> &Site {
        &self.site
    }

    pub fn host(&self) -> &Host {
        &self.gateway.host
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.gateway.dir
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs another command of `cframe-edge` on its data directory, such as `doctor` or `down`.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.gateway.run(args)
    }

    /// Runs a line in a root shell of its host, as somebody who pastes it there. `cframe-edge` is found, and uses this
    /// edge's data directory.
    pub fn shell(&self, line: &str) -> Result<Output> {
        let Gateway { host, programs, dir, .. } = &self.gateway;
        let mut command = clean_command(host, "sh".into());
        command.args(["-c", line]).env("CFRAME_EDGE_DATA_DIR", dir);
        command.env("PATH", programs.search_path());
        run(command, COMMAND_TIMEOUT)
    }

    /// Starts a copy of it on the edge host of another site, as a virtual machine that was copied.
    pub fn start_copy(&self, site: &Site) -> Result<Self> {
        let gateway = Gateway {
            dir: self.gateway.dir.with_extension("copy"),
            host: site.edge().clone(),
            ..self.gateway.clone()
        };
        copy_files(&self.gateway.dir, &gateway.dir)?;
        let process = gateway.spawn(&format!("copy-of-{}", self.name), &["run"])?;
        let mut copy = Self { site: site.clone(), name: self.name.clone(), gateway, process };
        copy.wait_serving()?;
        Ok(copy)
    }

    /// Kills it with SIGKILL. The TUN device and the routes stay.
    pub fn kill9(&mut self) -> Result<()> {
        self.gateway.transcript.typed(&self.gateway.host, "pkill -KILL cframe-edge");
        self.process.kill9()
    }

    /// Stops it with SIGTERM.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(STOP_TIMEOUT)
    }

    /// Starts it again after its end, without waiting; see [`Process::started`].
    pub fn start(&mut self) -> Result<()> {
        self.process.restart()
    }

    /// Stops it with SIGTERM, starts it again, and waits until it serves its local socket.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()?;
        self.wait_serving()
    }

    /// `cframe-edge status -o json`.
    pub fn status(&self) -> Result<Value> {
        self.gateway.status()
    }

    /// The number of packets dropped for a reason, by its status; 0 if the status does not name the reason.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        Ok(self.status()?["drops"][reason].as_u64().unwrap_or(0))
    }

    /// Waits until it serves its local socket.
    pub fn wait_serving(&mut self) -> Result<()> {
        self.wait_status("a status", TIMEOUT, |_| true)
    }

    /// Waits until exactly `count` links are up.
    pub fn wait_links(&mut self, count: usize) -> Result<()> {
        let wanted = format!("{count} links up");
        self.wait_status(&wanted, TIMEOUT, |status| links_up(status) == count)
    }

    /// Waits until it has a session with a controller, a state, and all its routes in the kernel.
    pub fn wait_synced(&mut self) -> Result<()> {
        self.wait_status("a session, a state and its routes", TIMEOUT, |status| {
            let routes = &status["routes"];
            status["controller"]["connected"].is_string()
                && status["state"]["version"].is_string()
                && routes["intended"] == routes["installed"]
        })
    }

    /// Waits until `holds` is true of its status; `wanted` describes that in the error.
    ///
    /// # Errors
    /// After `timeout`, or when the program has ended: with the last status and the end of its log.
    pub fn wait_status(
        &mut self,
        wanted: &str,
        timeout: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&holds) {
                return Ok(());
            }
            if start.elapsed() >= timeout || !self.process.is_running() {
                return Err(self.status_error(wanted, start.elapsed(), status));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn status_error(
        &mut self,
        wanted: &str,
        after: Duration,
        status: Result<Value>,
    ) -> anyhow::Error {
        let state = if self.process.is_running() { "runs" } else { "has ended" };
        let status = match status {
            Ok(status) => format!("{status:#}"),
            Err(error) => format!("{error:#}"),
        };
        anyhow!(
            "edge {} {state} without {wanted} after {after:.1?}; its status:\n{status}\nthe end of its log:\n{}",
            self.name,
            last_lines(&self.process.log(), 20)
        )
    }
}

/// Copies a directory's files, without sockets.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(to)
        .with_context(|| format!("creating {}", to.display()))?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, kind) = (to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            copy_files(&entry.path(), &path)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), path)?;
        }
    }
    Ok(())
}

fn links_up(status: &Value) -> usize {
    let links = status["links"].as_array().map(Vec::as_slice).unwrap_or_default();
    links.iter().filter(|link| link["up"] == true).count()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
