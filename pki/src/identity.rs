//! Names, roles and SPIFFE IDs.

mod certificate;
mod name;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{CertificateDer, excerpt::excerpt};

pub use certificate::{CertificateIdentityError, PeerIdentity};
pub(crate) use certificate::{only_uri, parse as parse_certificate, seconds};
pub use name::{Label, MeshName, NameError};

/// The SPIFFE ID of one participant, in one of three forms:
///
/// - `spiffe://<mesh>/ns/<namespace>/edge/<name>`
/// - `spiffe://<mesh>/controller/<name>`
/// - `spiffe://<mesh>/admin/<name>`
///
/// Upper case, a port, a query, percent-encoding, further or empty segments are refused. In serde it
/// is the string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// The trust domain.
    pub mesh: MeshName,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A gateway of one site.
    Edge {
        namespace: Label,
        name: Label,
    },
    Controller {
        name: Label,
    },
    /// A person or program that may make admin calls.
    Admin {
        name: Label,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error(
        "{0:?} is not an identity of a mesh: expected spiffe://MESH/ns/NAMESPACE/edge/NAME, \
         spiffe://MESH/controller/NAME or spiffe://MESH/admin/NAME"
    )]
    Form(String),
    #[error("{0:?} is not an identity of a mesh: {1}")]
    Name(String, #[source] NameError),
}

impl SpiffeId {
    pub fn edge(mesh: MeshName, namespace: Label, name: Label) -> Self {
        let role = Role::Edge { namespace, name };
        Self { mesh, role }
    }

    pub fn controller(mesh: MeshName, name: Label) -> Self {
        let role = Role::Controller { name };
        Self { mesh, role }
    }

    pub fn admin(mesh: MeshName, name: Label) -> Self {
        let role = Role::Admin { name };
        Self { mesh, role }
    }

    /// Reads the certificate's only subject alternative name, which must be a URI. Nothing is verified.
    pub fn from_certificate(der: &CertificateDer<'_>) -> Result<Self, CertificateIdentityError> {
        certificate::spiffe_id(&certificate::parse(der)?)
    }
}

impl Role {
    /// `None` for controllers and admins.
    pub fn namespace(&self) -> Option<&Label> {
        match self {
            Self::Edge { namespace, .. } => Some(namespace),
            Self::Controller { .. } | Self::Admin { .. } => None,
        }
    }

    pub fn name(&self) -> &Label {
        match self {
            Self::Edge { name, .. } | Self::Controller { name } | Self::Admin { name } => name,
        }
    }

    /// `edge`, `controller` or `admin`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Edge { .. } => "edge",
            Self::Controller { .. } => "controller",
            Self::Admin { .. } => "admin",
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mesh = &self.mesh;
        match &self.role {
            Role::Edge { namespace, name } => {
                write!(f, "spiffe://{mesh}/ns/{namespace}/edge/{name}")
            }
            Role::Controller { name } => write!(f, "spiffe://{mesh}/controller/{name}"),
            Role::Admin { name } => write!(f, "spiffe://{mesh}/admin/{name}"),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || SpiffeIdError::Form(excerpt(text));
        let name = |error| SpiffeIdError::Name(excerpt(text), error);
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let mut parts = rest.splitn(6, '/');
        let mesh = parts.next().ok_or_else(form)?.parse().map_err(name)?;
        let segments: Vec<&str> = parts.collect();
        let role = match segments.as_slice() {
            ["ns", namespace, "edge", edge] => Role::Edge {
                namespace: namespace.parse().map_err(name)?,
                name: edge.parse().map_err(name)?,
            },
            ["controller", controller] => {
                Role::Controller { name: controller.parse().map_err(name)? }
            }
            ["admin", admin] => Role::Admin { name: admin.parse().map_err(name)? },
            _ => return Err(form()),
        };
        Ok(Self { mesh, role })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}
