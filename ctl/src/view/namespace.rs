use cframe_protocol::v1::{Congestion, NamespaceRow};
use serde::Serialize;

use super::Row;
use crate::table::Cell;

#[derive(Debug, Serialize)]
pub struct Namespace {
    pub name: String,
    /// May be empty.
    pub description: String,
    /// Number of edges.
    pub edges: u32,
    /// Number of routes, without the edges' own networks.
    pub routes: u32,
    /// MTU of the TUN devices, in bytes.
    pub tun_mtu: u16,
    /// Congestion control of the links: `transparent` or `bbr`.
    pub congestion: &'static str,
    /// Increases by one with every change.
    pub revision: u64,
}

impl From<NamespaceRow> for Namespace {
    fn from(row: NamespaceRow) -> Self {
        Self {
            name: row.name.to_string(),
            description: row.description,
            edges: row.edges,
            routes: row.routes,
            tun_mtu: row.settings.tun_mtu,
            congestion: match row.settings.congestion {
                Congestion::Transparent => "transparent",
                Congestion::Bbr => "bbr",
            },
            revision: row.revision,
        }
    }
}

impl Row for Namespace {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "EDGES", "ROUTES", "TUN_MTU", "CONGESTION", "REVISION", "DESCRIPTION"];
    const TABLE_COLUMNS: usize = 5;

    fn cells(&self, _now: u64) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            Cell::new(self.edges),
            Cell::new(self.routes),
            Cell::new(self.tun_mtu),
            Cell::new(self.congestion),
            Cell::new(self.revision),
            Cell::new(&self.description),
        ]
    }
}
