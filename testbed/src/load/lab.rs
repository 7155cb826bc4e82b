//! A lab with the controller under load, and the namespaces of its mesh.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cframe_pki::identity::Label;
use cframe_protocol::v1::Endpoint;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use super::operator::Operator;
use super::{Options, Size};
use crate::deployment::Deployment;
use crate::etcd::EtcdMember;
use crate::lab::{Lab, PublicHost};
use crate::process::Process;

/// The controller's host answers at all of these addresses, and a connection to one of them comes from the same one:
/// the kernel takes the destination as the source if a route of type `local` names none (`ip-route(8)`). So each edge
/// has a source address of its own, and the controller's limits per source need no change.
const EDGE_ADDRESSES: &str = "100.64.0.0/10";
const FIRST_EDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// Files that the process needs besides the sockets of the edges.
const OTHER_FILES: u64 = 200;

/// Name of the lab and of the mesh.
const NAME: &str = "load";
const ETCD_CONFIG: &str =
    "[store]\nkind = \"etcd\"\n\n[etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n";
/// Directory of etcd's data below that of the mesh.
const ETCD_DATA: &str = "etcd";

/// The lab, the controller in it, and etcd. The fields are dropped in this order.
#[derive(Debug)]
pub(super) struct LoadLab {
    pub(super) size: Size,
    pub(super) deployment: Deployment,
    _etcd: Option<EtcdMember>,
    /// The controller's host.
    pub(super) host: PublicHost,
    /// Directory of the edges' certificates.
    pub(super) certificates: PathBuf,
    pub(super) net: Lab,
}

impl LoadLab {
    pub(super) fn start(options: &Options) -> Result<Self> {
        let size = options.size;
        raise_file_limit(u64::from((size.namespaces * size.edges).max(size.many)) + OTHER_FILES)?;
        let mut net = Lab::new(NAME)?;
        let host = net.host("controller").public("198.51.100.10/24").build()?;
        host.ip(&format!("route add local {EDGE_ADDRESSES} dev lo"))?;
        let dir = options.store.clone().unwrap_or_else(|| net.dir().to_owned());
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let uses_etcd = dir.join(ETCD_DATA).exists();
        ensure!(
            !Deployment::exists(NAME, &dir) || uses_etcd == options.etcd,
            "the mesh in {} {} etcd: run {} --etcd",
            dir.display(),
            if uses_etcd { "is in" } else { "is not in" },
            if uses_etcd { "with" } else { "without" },
        );
        let (etcd, config) = if options.etcd {
            (Some(EtcdMember::on_host(&host, &dir.join(ETCD_DATA))?), ETCD_CONFIG)
        } else {
            (None, "")
        };
        let deployment = Deployment::start_or_resume(NAME, &dir, &host, config)?;
        let certificates = dir.join("certificates");
        Ok(Self { size, deployment, _etcd: etcd, host, certificates, net })
    }

    /// A runtime. Its threads are in the network namespace of the caller's thread.
    pub(super) fn runtime() -> Result<Runtime> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all().build().context("starting a runtime")
    }

    pub(super) fn controller(&self) -> &Process {
        self.deployment.controller().process()
    }

    pub(super) async fn operator(&self) -> Result<Operator> {
        Operator::connect(&self.deployment.context_file()).await
    }

    /// Kills the controller and starts it again; returns when it was started.
    pub(super) fn kill_and_start(&mut self) -> Result<Instant> {
        let controller = self.deployment.controller_mut();
        controller.kill9()?;
        controller.start()?;
        Ok(controller.process().started())
    }

    pub(super) fn small_namespaces(&self) -> Result<Vec<NamespaceSpec>> {
        let Size { namespaces, edges, .. } = self.size;
        (0..namespaces)
            .map(|index| {
                let name = format!("few-{index:03}").parse()?;
                Ok(NamespaceSpec { name, edges, routes: 0, first_edge: index * edges })
            })
            .collect()
    }

    /// The namespace with many edges and no routes.
    pub(super) fn large_namespace(&self) -> Result<NamespaceSpec> {
        let Size { namespaces, edges, many, .. } = self.size;
        let first_edge = namespaces * edges;
        Ok(NamespaceSpec { name: "many".parse()?, edges: many, routes: 0, first_edge })
    }

    /// The namespace with many edges and many routes.
    pub(super) fn routes_namespace(&self) -> Result<NamespaceSpec> {
        let NamespaceSpec { edges, first_edge, .. } = self.large_namespace()?;
        let (routes, first_edge) = (self.size.routes, first_edge + edges);
        Ok(NamespaceSpec { name: "routes".parse()?, edges, routes, first_edge })
    }
}

/// What a namespace contains.
#[derive(Clone, Debug)]
pub(super) struct NamespaceSpec {
    pub(super) name: Label,
    pub(super) edges: u32,
    pub(super) routes: u32,
    /// The index of its first edge among those of all namespaces.
    first_edge: u32,
}

impl NamespaceSpec {
    pub(super) fn edge_name(&self, index: u32) -> Result<Label> {
        Ok(format!("edge-{index:04}").parse()?)
    }

    /// Where one of its edges dials the controller.
    pub(super) fn controller(&self, index: u32, port: u16) -> Endpoint {
        let address = FIRST_EDGE_ADDRESS.to_bits() + self.first_edge + index;
        Endpoint::from(SocketAddr::from((Ipv4Addr::from_bits(address), port)))
    }
}

fn raise_file_limit(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= wanted),
        "{wanted} open files are needed, and the limit is {:?}: `ulimit -Hn {wanted}`",
        limit.maximum
    );
    let new = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, new).context("raising the limit of open files")
}
