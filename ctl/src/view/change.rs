use std::fmt;

use cframe_pki::identity::Label;
use cframe_protocol::v1::Version;
use serde::Serialize;

/// The object of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// `namespace`, `edge`, `route`, `token`, `cert`, `admin`, `controller`, `root`,
    /// `trust` or `store`.
    pub kind: &'static str,
    /// `null` for objects of the whole mesh.
    pub namespace: Option<String>,
    /// The name, id, serial or fingerprint.
    pub name: String,
}

impl Subject {
    pub fn of_mesh(kind: &'static str, name: impl ToString) -> Self {
        Self { kind, namespace: None, name: name.to_string() }
    }

    pub fn of(kind: &'static str, namespace: &Label, name: impl ToString) -> Self {
        Self { kind, namespace: Some(namespace.to_string()), name: name.to_string() }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// A change that was made, or with `--dry-run` would be.
#[derive(Debug, Serialize)]
pub struct Change {
    #[serde(flatten)]
    pub subject: Subject,
    /// `added`, `changed`, `removed`, `revoked`, `asked to renew`, `accepted`; in a dry run also `made` and `issued`.
    pub change: &'static str,
    /// The change was only checked.
    pub dry_run: bool,
    /// The version of the state after the change.
    pub version: Version,
    /// Sentences about what is allowed but may be a mistake.
    pub warnings: Vec<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dry_run {
            true => write!(f, "{} would be {} (dry run)", self.subject, self.change),
            false => write!(f, "{} {}", self.subject, self.change),
        }
    }
}
