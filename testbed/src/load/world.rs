//! The controller, its operator, and the three parts of its mesh.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cframe_pki::identity::Label;
use cframe_protocol::v1::Endpoint;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use super::operator::Operator;
use super::{Options, Size};
use crate::deployment::{Deployment, Transcript};
use crate::{Host, Lab, Process, PublicHost, wait_until};

/// The controller's host answers at all of these, and who dials one of them comes from it: the kernel takes the
/// destination as the source where a route of type `local` names none (`ip-route(8)`). So every edge has an address of
/// its own, and the limits for one source are left as they are.
const NET: &str = "100.64.0.0/10";
const FIRST: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// Besides the sockets of edges.
const FILES: u64 = 200;

/// Of the lab and of the mesh.
const NAME: &str = "load";
const ETCD_CONFIG: &str =
    "[store]\nkind = \"etcd\"\n\n[etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n";
/// Below the directory that is kept.
const ETCD_DATA: &str = "etcd";
/// How long etcd may take to come up.
const ETCD: Duration = Duration::from_secs(20);

/// A namespace with its edges.
#[derive(Clone, Debug)]
pub(super) struct Space {
    pub(super) namespace: Label,
    pub(super) edges: u32,
    pub(super) routes: u32,
    /// The number of its first edge among all.
    first: u32,
}

impl Space {
    pub(super) fn edge(&self, index: u32) -> Result<Label> {
        Ok(format!("edge-{index:04}").parse()?)
    }

    /// Where one of its edges dials the controller.
    pub(super) fn controller(&self, index: u32, port: u16) -> Endpoint {
        let address = Ipv4Addr::from_bits(FIRST.to_bits() + self.first + index);
        Endpoint::from(std::net::SocketAddr::from((address, port)))
    }
}

/// All of it. What it began ends with it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) size: Size,
    pub(super) deployment: Deployment,
    _etcd: Option<Process>,
    pub(super) host: PublicHost,
    /// Where certificates are kept.
    pub(super) certificates: PathBuf,
    pub(super) lab: Lab,
}

impl World {
    pub(super) fn start(options: &Options) -> Result<Self> {
        let size = options.size;
        allow_files(u64::from((size.namespaces * size.edges).max(size.many)) + FILES)?;
        let mut lab = Lab::new(NAME)?;
        let host = lab.host("controller").public("198.51.100.10/24").build()?;
        host.ip(&format!("route add local {NET} dev lo"))?;
        let dir = options.store.clone().unwrap_or_else(|| lab.dir().to_owned());
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let in_etcd = dir.join(ETCD_DATA).exists();
        ensure!(
            !Deployment::is_made(NAME, &dir) || in_etcd == options.etcd,
            "the mesh in {} has the other store: with or without --etcd, as it was made",
            dir.display()
        );
        let etcd = if options.etcd { Some(start_etcd(&host, &dir)?) } else { None };
        let config = if options.etcd { ETCD_CONFIG } else { "" };
        let quiet = Transcript::default();
        let deployment = Deployment::start_or_resume(NAME, &dir, &host, quiet, config)?;
        let certificates = dir.join("certificates");
        Ok(Self { size, deployment, _etcd: etcd, host, certificates, lab })
    }

    /// A runtime whose threads are in the controller's namespace, if the caller's is: threads take that over.
    pub(super) fn runtime() -> Result<Runtime> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("a runtime")
    }

    pub(super) fn controller(&self) -> &Process {
        self.deployment.controller()
    }

    pub(super) async fn operator(&self) -> Result<Operator> {
        Operator::connect(&self.deployment.context_file()).await
    }

    /// Kills the controller and starts it again; says when it was started.
    pub(super) fn kill_and_start(&mut self) -> Result<Instant> {
        self.deployment.kill9_controller()?;
        self.deployment.start_controller()?;
        Ok(self.controller().started())
    }

    /// The namespaces with a few edges.
    pub(super) fn few(&self) -> Result<Vec<Space>> {
        let Size { namespaces, edges, .. } = self.size;
        (0..namespaces)
            .map(|index| {
                let namespace = format!("few-{index:03}").parse()?;
                Ok(Space { namespace, edges, routes: 0, first: index * edges })
            })
            .collect()
    }

    /// The namespace with many edges.
    pub(super) fn many(&self) -> Result<Space> {
        let first = self.size.namespaces * self.size.edges;
        Ok(Space { namespace: "many".parse()?, edges: self.size.many, routes: 0, first })
    }

    /// The namespace with many edges and many routes.
    pub(super) fn routes(&self) -> Result<Space> {
        let many = self.many()?;
        let first = many.first + many.edges;
        let (edges, routes) = (self.size.many, self.size.routes);
        Ok(Space { namespace: "routes".parse()?, edges, routes, first })
    }
}

/// A member alone, with its own defaults.
fn start_etcd(host: &Host, dir: &Path) -> Result<Process> {
    let mut command = host.command("etcd");
    command.arg("--data-dir").arg(dir.join(ETCD_DATA));
    let process = host.spawn("etcd", command)?;
    let healthy = || {
        let mut asked = host.command("etcdctl");
        asked.env("ETCDCTL_API", "3").args(["endpoint", "health"]);
        asked.output().is_ok_and(|output| output.status.success())
    };
    wait_until(ETCD, healthy).with_context(|| format!("etcd: {}", process.log_tail(5)))?;
    Ok(process)
}

fn allow_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|most| most >= wanted),
        "{wanted} open files are needed, and the limit is {:?}: `ulimit -Hn {wanted}`",
        limit.maximum
    );
    let new = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, new).context("raising the limit of open files")
}

/// Waits for a condition, looking every 10 ms; says how long it took.
pub(super) async fn until(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> bool,
) -> Result<Duration> {
    let begun = Instant::now();
    while !holds() {
        ensure!(begun.elapsed() < limit, "{what} has not come about within {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(begun.elapsed())
}
