use cframe_protocol::v1::{Endpoint, RegistrationRow};
use serde::Serialize;

use super::Row;
use crate::{
    table::{Cell, Tone},
    timestamp::Timestamp,
};

/// A controller, running or not.
#[derive(Debug, Serialize)]
pub struct Controller {
    pub name: String,
    pub running: bool,
    /// When it started; `null` if it does not run.
    pub since: Option<Timestamp>,
    /// Version of its software; `null` if it does not run.
    pub software: Option<String>,
    /// Addresses of its control port.
    pub addresses: Vec<Endpoint>,
    /// When it was added to the mesh.
    pub added: Timestamp,
    /// SHA-256 of its issuing CA's public key, 64 hex digits, for `trust revoke`.
    pub issuer: String,
    pub issuer_expires: Timestamp,
}

impl From<RegistrationRow> for Controller {
    fn from(row: RegistrationRow) -> Self {
        let RegistrationRow { name, addresses, added, issuer, issuer_expires, running } = row;
        Self {
            name: name.to_string(),
            running: running.is_some(),
            since: running.as_ref().map(|running| Timestamp(running.since)),
            software: running.map(|running| running.software),
            addresses,
            added: Timestamp(added),
            issuer: issuer.to_string(),
            issuer_expires: Timestamp(issuer_expires),
        }
    }
}

impl Row for Controller {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "RUNNING", "SINCE", "ADDRESSES", "SOFTWARE", "ADDED", "ISSUER_EXPIRES", "ISSUER"];
    const TABLE_COLUMNS: usize = 4;

    fn cells(&self, now: u64) -> Vec<Cell> {
        let running = match self.running {
            true => Cell::new("yes").tone(Tone::Good),
            false => Cell::new("no").tone(Tone::Bad),
        };
        vec![
            Cell::new(&self.name),
            running,
            Cell::option(self.since.map(|since| since.age(now))),
            Cell::list(&self.addresses),
            Cell::option(self.software.as_ref()),
            Cell::new(self.added.age(now)),
            Cell::new(self.issuer_expires.left(now)),
            Cell::new(&self.issuer),
        ]
    }
}
