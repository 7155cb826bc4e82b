//! What was changed.

use std::fmt;

use cframe_pki::identity::Label;
use cframe_protocol::v1::Version;
use serde::Serialize;

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// `namespace`, `edge`, `route`, `token`, `cert`, `admin` or `trust`.
    pub kind: &'static str,
    /// Its namespace, if it belongs to one.
    pub namespace: Option<String>,
    /// Its name, id, serial or fingerprint.
    pub name: String,
}

impl Subject {
    /// Something of the mesh as a whole.
    pub fn of_mesh(kind: &'static str, name: impl ToString) -> Self {
        Self { kind, namespace: None, name: name.to_string() }
    }

    /// Something of a namespace.
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
    /// What it is about.
    #[serde(flatten)]
    pub subject: Subject,
    /// What happened to it: `added`, `changed`, `removed`, `revoked`, `asked to renew`; of a dry
    /// run also `made` and `issued`.
    pub change: &'static str,
    /// It was only checked.
    pub dry_run: bool,
    /// The state that has it.
    pub version: Version,
    /// What is allowed and yet worth a second look, a sentence each.
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
