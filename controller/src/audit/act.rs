//! Something that is being done, by whom and from where.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use cframe_pki::{
    Serial,
    identity::{Label, PeerIdentity, Role},
};

use crate::{decide::call::Descriptor, model::record::TokenKey, rate::source_of};

/// Who acts. The text form is `admin/NAME`, `edge/NAMESPACE/NAME`, `token/ID`, `controller/NAME` or `local/UID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Admin(Label),
    /// Namespace and name.
    Edge(Label, Label),
    /// Somebody unknown, with a join token of this id.
    Token(TokenKey),
    /// A controller, of itself.
    Controller(Label),
    /// A user on the controller's own host, by the user id.
    Local(u32),
}

impl Who {
    /// The holder of a certificate.
    pub fn holder(role: &Role) -> Self {
        match role {
            Role::Admin { name } => Self::Admin(name.clone()),
            Role::Edge { namespace, name } => Self::Edge(namespace.clone(), name.clone()),
            Role::Controller { name } => Self::Controller(name.clone()),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin(name) => write!(f, "admin/{name}"),
            Self::Edge(namespace, name) => write!(f, "edge/{namespace}/{name}"),
            Self::Token(id) => write!(f, "token/{id}"),
            Self::Controller(name) => write!(f, "controller/{name}"),
            Self::Local(uid) => write!(f, "local/{uid}"),
        }
    }
}

/// Something that is being done. It gets one record: in the transaction of what it changes, or else when its
/// [outcome is recorded](crate::mesh::Replica::record_outcome).
#[derive(Debug)]
pub struct Act {
    pub who: Who,
    /// The actor's certificate.
    pub serial: Option<Serial>,
    pub from: Option<SocketAddr>,
    /// A call's name, or `join`, `renewal`, …
    pub call: &'static str,
    pub namespace: Option<Label>,
    /// `prod/aws-hk`; empty for the whole mesh.
    pub subject: String,
    pub dry_run: bool,
    reads_only: bool,
    recorded: AtomicBool,
}

impl Act {
    /// An act of a certificate's holder, from an address.
    pub fn by(peer: &PeerIdentity, from: SocketAddr, call: &'static str) -> Self {
        Self {
            serial: Some(peer.serial),
            from: Some(from),
            ..Self::new(Who::holder(&peer.id.role), call)
        }
    }

    /// An act of an actor without a certificate, or of this controller itself.
    pub fn new(who: Who, call: &'static str) -> Self {
        Self {
            who,
            serial: None,
            from: None,
            call,
            namespace: None,
            subject: String::new(),
            dry_run: false,
            reads_only: false,
            recorded: AtomicBool::new(false),
        }
    }

    /// An admin call.
    pub fn call(peer: &PeerIdentity, from: SocketAddr, call: &Descriptor, dry_run: bool) -> Self {
        Self {
            namespace: call.namespace.clone(),
            subject: call.subject.clone(),
            dry_run,
            reads_only: call.access.is_read(),
            ..Self::by(peer, from, call.name)
        }
    }

    /// Sets the subject to an edge.
    #[must_use]
    pub fn about(self, namespace: &Label, edge: &Label) -> Self {
        Self { namespace: Some(namespace.clone()), subject: format!("{namespace}/{edge}"), ..self }
    }

    /// A step of this act, which gets a record of its own.
    #[must_use]
    pub(crate) fn step(&self) -> Self {
        Self {
            who: self.who.clone(),
            serial: self.serial,
            from: self.from,
            call: self.call,
            namespace: self.namespace.clone(),
            subject: self.subject.clone(),
            dry_run: self.dry_run,
            reads_only: self.reads_only,
            recorded: AtomicBool::new(false),
        }
    }

    /// Such an act gets a record only if it is not allowed.
    pub fn reads_only(&self) -> bool {
        self.reads_only
    }

    pub fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }

    pub(crate) fn set_recorded(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    /// What the limit on records applies to: the holder of a certificate by name, others by address.
    pub(super) fn source(&self) -> String {
        match (&self.who, self.from) {
            (Who::Token(_), Some(from)) => match source_of(from.ip()) {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("{ip}/64"),
            },
            (who, _) => who.to_string(),
        }
    }
}
