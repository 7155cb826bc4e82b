//! Controllers.

use cframe_protocol::v1::{Endpoint, RegistrationRow};
use serde::Serialize;

use super::Row;
use crate::{
    moment::Moment,
    table::{Cell, Tone},
};

/// A controller, whether it runs or not.
#[derive(Debug, Serialize)]
pub struct Controller {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub running: bool,
    /// Since when it runs; `null` if it does not.
    pub since: Option<Moment>,
    /// Version of its software; `null` if it does not run.
    pub software: Option<String>,
    /// Where it is reached, on its control port.
    pub addresses: Vec<Endpoint>,
    /// When it was added.
    pub added: Moment,
    /// SHA-256 of its issuing CA's public key, 64 hex digits: what `trust revoke` takes.
    pub issuer: String,
    /// When its issuing CA expires.
    pub issuer_expires: Moment,
}

impl From<RegistrationRow> for Controller {
    fn from(row: RegistrationRow) -> Self {
        let RegistrationRow { name, addresses, added, issuer, issuer_expires, running } = row;
        Self {
            name: name.to_string(),
            running: running.is_some(),
            since: running.as_ref().map(|running| Moment(running.since)),
            software: running.map(|running| running.software),
            addresses,
            added: Moment(added),
            issuer: issuer.to_string(),
            issuer_expires: Moment(issuer_expires),
        }
    }
}

impl Row for Controller {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "RUNNING", "SINCE", "ADDRESSES", "SOFTWARE", "ADDED", "ISSUER_EXPIRES", "ISSUER"];
    const NARROW: usize = 4;

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
