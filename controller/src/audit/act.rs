//! What is being done, by whom and from where.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use cframe_pki::{
    Serial,
    identity::{Label, PeerIdentity, Role},
};
use cframe_protocol::v1::Call;

use crate::{record::TokenKey, roles};

/// Whoever acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// `admin/NAME`.
    Admin(Label),
    /// `edge/NAMESPACE/NAME`.
    Edge(Label, Label),
    /// `token/ID`: nobody that is known, with a join token of this id.
    Token(TokenKey),
    /// `controller/NAME`: a controller, by itself.
    Controller(Label),
    /// `local/UID`: somebody on the controller's own host, whose user id the system tells.
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

/// Something that is being done and gets one record: in the transaction of what it changes, or else when it
/// is [settled](crate::mesh::Mesh::settle).
#[derive(Debug)]
pub struct Act {
    /// Who does it.
    pub who: Who,
    /// By which certificate.
    pub serial: Option<Serial>,
    /// From where.
    pub from: Option<SocketAddr>,
    /// What: a call's name, `join`, `renewal`, …
    pub call: &'static str,
    /// In which namespace.
    pub namespace: Option<Label>,
    /// About what: `prod/aws-hk`. Empty for the mesh.
    pub subject: String,
    /// It is to change nothing.
    pub dry_run: bool,
    /// It only looks.
    looks: bool,
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

    /// An act of somebody without a certificate, or of this controller itself.
    pub fn new(who: Who, call: &'static str) -> Self {
        Self {
            who,
            serial: None,
            from: None,
            call,
            namespace: None,
            subject: String::new(),
            dry_run: false,
            looks: false,
            recorded: AtomicBool::new(false),
        }
    }

    /// An admin call.
    pub fn call(peer: &PeerIdentity, from: SocketAddr, call: &Call, dry_run: bool) -> Self {
        let (namespace, subject) = subject(call);
        let looks = roles::looks(call);
        Self { namespace, subject, dry_run, looks, ..Self::by(peer, from, call.name()) }
    }

    /// The same about an edge.
    #[must_use]
    pub fn about(self, namespace: &Label, edge: &Label) -> Self {
        Self { namespace: Some(namespace.clone()), subject: format!("{namespace}/{edge}"), ..self }
    }

    /// One step of it, with a record of its own.
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
            looks: self.looks,
            recorded: AtomicBool::new(false),
        }
    }

    /// Whether it leaves no record when it is allowed, or fails for another reason.
    pub fn looks(&self) -> bool {
        self.looks
    }

    /// Whether it has its record.
    pub fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Relaxed)
    }

    pub(crate) fn set_recorded(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    /// Whose patience is tried by too many of these: whoever has a certificate by name, others by address; an
    /// IPv6 /64 is one.
    pub(super) fn source(&self) -> String {
        match (&self.who, self.from.map(|from| from.ip())) {
            (Who::Token(_), Some(IpAddr::V4(ip))) => ip.to_string(),
            (Who::Token(_), Some(IpAddr::V6(ip))) => {
                let [a, b, c, d, ..] = ip.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
            (who, _) => who.to_string(),
        }
    }
}

/// The namespace that a call is about, and the thing. No secrets, no requests.
pub fn subject(call: &Call) -> (Option<Label>, String) {
    match call {
        Call::NamespaceAdd { name, .. }
        | Call::NamespaceSet { name, .. }
        | Call::NamespaceDel { name, .. }
        | Call::NamespaceShow { name } => (Some(name.clone()), name.to_string()),
        Call::AdminAdd { name, .. }
        | Call::AdminDel { name }
        | Call::ControllerDel { name, .. }
        | Call::ControllerShow { name } => (None, name.to_string()),
        Call::EdgeAdd { namespace, name, .. }
        | Call::EdgeSet { namespace, name, .. }
        | Call::EdgeDel { namespace, name }
        | Call::EdgeShow { namespace, name }
        | Call::RouteAdd { namespace, name, .. }
        | Call::RouteDel { namespace, name }
        | Call::RouteShow { namespace, name }
        | Call::TokenCreate { namespace, edge: name, .. }
        | Call::CertEnroll { namespace, edge: name, .. }
        | Call::CertRenew { namespace, edge: name } => {
            (Some(namespace.clone()), format!("{namespace}/{name}"))
        }
        // What is no id may be a whole token, pasted in its place.
        Call::TokenRevoke { id } => {
            (None, id.parse().map_or_else(|_| "?".to_owned(), |id: TokenKey| id.to_string()))
        }
        Call::CertRevoke { serial, .. } | Call::CertShow { serial } => (None, serial.to_string()),
        Call::IssuerRevoke { fingerprint }
        | Call::CaHolders { fingerprint }
        | Call::RootDrop { fingerprint, .. } => (None, fingerprint.to_string()),
        Call::EdgeList { namespace }
        | Call::RouteList { namespace }
        | Call::TokenList { namespace }
        | Call::CertList { namespace } => {
            (namespace.clone(), namespace.as_ref().map(ToString::to_string).unwrap_or_default())
        }
        Call::Sessions { namespace, .. } => (namespace.clone(), String::new()),
        Call::Wait { namespace, .. } | Call::Behind { namespace, .. } => {
            (Some(namespace.clone()), namespace.to_string())
        }
        Call::Audit(query) => (query.namespace.clone(), String::new()),
        Call::Version
        | Call::Status
        | Call::NamespaceList
        | Call::AdminList
        | Call::TrustShow
        | Call::ControllerList
        | Call::CaStatus
        | Call::RootAdd { .. }
        | Call::Backup => (None, String::new()),
    }
}
