//! The audit log, as admins ask for it.

use cframe_pki::identity::Label;
use serde::{Deserialize, Serialize};

/// Which records are asked for. What is `None` restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditQuery {
    /// Not made before this, in Unix milliseconds.
    pub since: Option<u64>,
    /// Made before this, in Unix milliseconds.
    pub until: Option<u64>,
    /// By whom: `admin/alice`, or a part of that up to or after a `/`.
    pub who: Option<String>,
    /// About this namespace.
    pub namespace: Option<Label>,
    /// By this call: `edge-add`, `join`, …
    pub call: Option<String>,
    /// The newest so many; 0 for all.
    pub limit: u32,
    /// After those that there are, each that is made, until the asker goes.
    pub follow: bool,
}

/// A record of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Its id, by which records sort: Unix milliseconds in 13 digits, the controller, a number.
    pub id: String,
    /// The record as it is stored, in JSON: its fields may grow in number, and what is frozen here is that
    /// it is a text.
    pub record: String,
}
