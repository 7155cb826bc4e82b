use cframe_protocol::{
    problem::Severity,
    text::printable,
    v1::{self, Endpoint, MeshStatus},
};
use serde::Serialize;

use super::{Group, Row};
use crate::{
    console::Answer,
    table::{Cell, Table, Tone},
    timestamp::{Timestamp, short},
};

/// The health of the mesh.
#[derive(Debug, Serialize)]
pub struct Status {
    pub mesh: String,
    /// True without errors. Warnings may remain.
    pub healthy: bool,
    /// When the store was created, in milliseconds since the Unix epoch.
    pub epoch: u64,
    /// Revision of the state that concerns all namespaces.
    pub mesh_revision: u64,
    /// The running controllers.
    pub controllers: Vec<ControllerStatus>,
    pub namespaces: Vec<NamespaceStatus>,
    /// Errors first.
    pub problems: Vec<Group>,
}

#[derive(Debug, Serialize)]
pub struct ControllerStatus {
    pub name: String,
    /// Its control port.
    pub address: Endpoint,
    /// Version of its software.
    pub software: String,
    pub uptime_seconds: u64,
    /// Text about its store.
    pub store: String,
}

#[derive(Debug, Serialize)]
pub struct NamespaceStatus {
    pub name: String,
    pub edges: u32,
    /// Edges that have a session.
    pub online: u32,
    /// Online edges that applied the newest state.
    pub in_sync: u32,
    pub links_up: u32,
    /// Links that should be up.
    pub links_expected: u32,
    /// Increases by one with every change.
    pub revision: u64,
}

impl From<MeshStatus> for Status {
    fn from(status: MeshStatus) -> Self {
        Self {
            mesh: status.mesh.to_string(),
            healthy: status.problems.iter().all(|group| group.severity != Severity::Error),
            epoch: status.epoch,
            mesh_revision: status.mesh_revision,
            controllers: status.controllers.into_iter().map(ControllerStatus::from).collect(),
            namespaces: status.namespaces.into_iter().map(NamespaceStatus::from).collect(),
            problems: status.problems.into_iter().map(Group::from).collect(),
        }
    }
}

impl From<v1::ControllerRow> for ControllerStatus {
    fn from(row: v1::ControllerRow) -> Self {
        Self {
            name: row.name.to_string(),
            address: row.address,
            software: row.software,
            uptime_seconds: row.uptime_secs,
            store: row.store,
        }
    }
}

impl From<v1::NamespaceStatus> for NamespaceStatus {
    fn from(row: v1::NamespaceStatus) -> Self {
        Self {
            name: row.name.to_string(),
            edges: row.edges,
            online: row.online,
            in_sync: row.in_sync,
            links_up: row.links_up,
            links_expected: row.links_expected,
            revision: row.revision,
        }
    }
}

/// `2/3`, and red unless the numbers are equal.
fn share(part: u32, all: u32) -> Cell {
    let tone = if part < all { Tone::Bad } else { Tone::Good };
    Cell::new(format!("{part}/{all}")).tone(tone)
}

impl Status {
    /// `2 errors, 1 warning`
    fn health(&self, color: bool) -> String {
        let count = |severity| {
            let groups = self.problems.iter().filter(|group| group.severity == severity);
            groups.map(|group| group.count as usize).sum::<usize>()
        };
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let state = match errors {
            0 => Tone::Good.paint_if(color, "healthy"),
            errors => Tone::Bad.paint_if(color, &crate::console::count(errors, "error")),
        };
        match warnings {
            0 => state,
            warnings => {
                let warnings = crate::console::count(warnings, "warning");
                format!("{state}, {}", Tone::Warning.paint_if(color, &warnings))
            }
        }
    }
}

impl Answer for Status {
    fn table(&self, _wide: bool, color: bool) -> String {
        let mut controllers = Table::new(["CONTROLLER", "ADDRESS", "UPTIME", "SOFTWARE", "STORE"]);
        for row in &self.controllers {
            controllers.push(vec![
                Cell::new(&row.name),
                Cell::new(&row.address),
                Cell::new(short(std::time::Duration::from_secs(row.uptime_seconds))),
                Cell::new(&row.software),
                Cell::new(&row.store),
            ]);
        }
        let mut namespaces = Table::new(["NAMESPACE", "ONLINE", "IN_SYNC", "LINKS", "REVISION"]);
        for row in &self.namespaces {
            namespaces.push(vec![
                Cell::new(&row.name),
                share(row.online, row.edges),
                share(row.in_sync, row.online),
                share(row.links_up, row.links_expected),
                Cell::new(row.revision),
            ]);
        }
        let health = self.health(color);
        let mut text = format!("mesh {}: {health}\n\n{}", self.mesh, controllers.render(color));
        if !self.namespaces.is_empty() {
            text = format!("{text}\n{}", namespaces.render(color));
        }
        if !self.problems.is_empty() {
            text.push('\n');
        }
        for problem in &self.problems {
            problem.write(&mut text, color);
        }
        text
    }

    fn data(&self) -> impl Serialize {
        self
    }
}

/// A context of this machine, without its key.
#[derive(Debug, Serialize)]
pub struct Context {
    pub name: String,
    /// Whether commands without `--context` use it.
    pub current: bool,
    pub mesh: String,
    /// Name in the certificate; `null` if that can't be read.
    pub admin: Option<String>,
    /// Namespace for commands without `-n`.
    pub namespace: Option<String>,
    /// When the certificate expires; `null` if it can't be read.
    pub not_after: Option<Timestamp>,
    pub controllers: Vec<Endpoint>,
}

impl Row for Context {
    const COLUMNS: &'static [&'static str] =
        &["CURRENT", "NAME", "MESH", "ADMIN", "NAMESPACE", "EXPIRES", "CONTROLLERS"];
    const TABLE_COLUMNS: usize = 7;

    fn cells(&self, now: u64) -> Vec<Cell> {
        vec![
            Cell::new(if self.current { "*" } else { "" }),
            Cell::new(&self.name),
            Cell::new(&self.mesh),
            Cell::option(self.admin.as_ref()),
            Cell::option(self.namespace.as_ref()),
            Cell::option(self.not_after.map(|at| at.left(now))),
            Cell::list(&self.controllers),
        ]
    }
}

#[derive(Debug, Serialize)]
pub struct Versions {
    /// Version of this cfctl.
    pub client: &'static str,
    /// Version of the controller; `null` with `--client` or without a context.
    pub controller: Option<String>,
    /// Version of the controller's protocol.
    pub protocol: Option<u16>,
}

impl Answer for Versions {
    fn table(&self, _wide: bool, _color: bool) -> String {
        let mut text = format!("cfctl       {}\n", self.client);
        if let (Some(controller), Some(protocol)) = (&self.controller, self.protocol) {
            let controller = printable(controller);
            text.push_str(&format!("controller  {controller}\nprotocol    {protocol}\n"));
        }
        text
    }

    fn data(&self) -> impl Serialize {
        self
    }
}
