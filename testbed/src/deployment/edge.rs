use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use ipnet::IpNet;
use serde_json::Value;

use super::prompt::{Output, Transcript, as_typed, run};
use super::{COMMAND, Deployment, clean_command};
use crate::process::last_lines;
use crate::{Host, Process, Programs, Site};

/// How long an edge may take for what it was asked to.
const PATIENCE: Duration = Duration::from_secs(10);
/// A stop says goodbye to peers and controller first.
const STOP: Duration = Duration::from_secs(5);
/// Between two looks at an edge's status, each of them a process.
const LOOK: Duration = Duration::from_millis(20);
const LINK_PORT: u16 = 58423;

/// Collects what an edge is to be; made by [`Deployment::edge`].
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

    /// Its namespace, which must be there; `prod` by default.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// Its name; the site's by default.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Its site prefixes; all networks inside the site by default.
    #[must_use]
    pub fn cidrs(self, cidrs: &[&str]) -> Self {
        Self { cidrs: owned(cidrs), ..self }
    }

    /// Where it is reached from outside, `HOST:PORT`; by default the site's public addresses of both families, and
    /// nothing behind a NAT.
    #[must_use]
    pub fn endpoints(self, endpoints: &[&str]) -> Self {
        Self { endpoints: owned(endpoints), ..self }
    }

    /// More arguments for `cframe-edge run`, such as `--snat`.
    #[must_use]
    pub fn args(self, args: &[&str]) -> Self {
        Self { args: owned(args), ..self }
    }

    /// Removes what an edge of this name has left on its host.
    pub fn afresh(self) -> Result<Self> {
        let dir = self.deployment.files.edge(&self.namespace, &self.name);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", dir.display()))
            }
            Ok(()) | Err(_) => Ok(self),
        }
    }

    /// `cfctl edge add`, alone.
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

    /// Adds the edge, makes a token, joins with it and starts the edge, each as a user would; returns once it serves
    /// its local socket, which is before it has links.
    pub fn enrol(self) -> Result<Edge> {
        self.add()?;
        let token = self.deployment.token(&self.namespace, &self.name)?;
        self.join(&token)
    }

    /// The part on the gateway: joins with a token, and starts the edge.
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
        let mut edge = Edge { site, namespace, name, gateway, process };
        edge.wait_serving()?;
        Ok(edge)
    }
}

/// The data directory of an edge on its host.
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
        self.transcript.run(&self.host, self.command(args), COMMAND)
    }

    fn spawn(&self, log: &str, args: &[&str]) -> Result<Process> {
        let command = self.command(args);
        self.transcript.typed(&self.host, &format!("{} &", as_typed(&command)));
        self.host.spawn(log, command)
    }

    fn status(&self) -> Result<Value> {
        run(self.command(&["status", "-o", "json"]), COMMAND)?.json()
    }
}

/// A running edge: one `cframe-edge run` on the edge host of a site. Dropping it kills it.
#[derive(Debug)]
pub struct Edge {
    site: Site,
    namespace: String,
    name: String,
    gateway: Gateway,
    process: Process,
}

impl Edge {
    /// Its name in the mesh.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its site.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.gateway.host
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.gateway.dir
    }

    /// The program, with its log and memory.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The program, to signal and wait for.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs another command of `cframe-edge` here, such as `doctor` or `down`.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.gateway.run(args)
    }

    /// Kills it with SIGKILL. Its TUN device and routes stay.
    pub fn kill9(&mut self) -> Result<()> {
        self.gateway.transcript.typed(&self.gateway.host, "pkill -KILL cframe-edge");
        self.process.kill9()
    }

    /// Stops it with SIGTERM.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(STOP)
    }

    /// Starts it again after its end and returns at once; [`Process::started`] is the moment.
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
    ///
    /// # Errors
    /// When the edge doesn't run.
    pub fn status(&self) -> Result<Value> {
        self.gateway.status()
    }

    /// How many of its links are up, as its status has it.
    pub fn links_up(&self) -> Result<usize> {
        Ok(links_up(&self.status()?))
    }

    /// How many packets it has dropped for a reason, as its status has it; 0 for one that never was.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        Ok(self.status()?["drops"][reason].as_u64().unwrap_or(0))
    }

    /// Waits until it serves its local socket.
    pub fn wait_serving(&mut self) -> Result<()> {
        self.wait_status("a status", PATIENCE, |_| true)
    }

    /// Waits until exactly `count` links are up.
    pub fn wait_links(&mut self, count: usize) -> Result<()> {
        let wanted = format!("{count} links up");
        self.wait_status(&wanted, PATIENCE, |status| links_up(status) == count)
    }

    /// Waits until it has a session with a controller, a state, and all its routes in the kernel.
    pub fn wait_synced(&mut self) -> Result<()> {
        self.wait_status("a session, a state and its routes", PATIENCE, |status| {
            let routes = &status["routes"];
            status["controller"]["connected"].is_string()
                && status["state"]["version"].is_string()
                && routes["intended"] == routes["installed"]
        })
    }

    /// Waits until its status is as `wanted` says.
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
                return Err(self.not_seen(wanted, start.elapsed(), status));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn not_seen(&mut self, wanted: &str, after: Duration, status: Result<Value>) -> anyhow::Error {
        let state = if self.process.is_running() { "still runs" } else { "has ended" };
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

fn links_up(status: &Value) -> usize {
    let links = status["links"].as_array().map(Vec::as_slice).unwrap_or_default();
    links.iter().filter(|link| link["up"] == true).count()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
