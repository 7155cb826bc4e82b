//! Queries of the audit log.

use cframe_pki::identity::Label;
use serde::{Deserialize, Serialize};

/// A filter. `None` matches all records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditQuery {
    /// From this time on, in Unix milliseconds.
    pub since: Option<u64>,
    /// Before this time, in Unix milliseconds.
    pub until: Option<u64>,
    /// `admin/alice`, or the part before or after the `/`.
    pub who: Option<String>,
    pub namespace: Option<Label>,
    /// `edge-add`, `join`, …
    pub call: Option<String>,
    /// Only this many of the newest records; 0: all.
    pub limit: u32,
    /// Then send new records as they are made, until the caller closes the stream.
    pub follow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Sorts by time: Unix milliseconds in 13 digits, the controller, a number.
    pub id: String,
    /// The stored record in JSON. Later versions may add fields; the protocol only fixes that it is a
    /// string.
    pub record: String,
}
