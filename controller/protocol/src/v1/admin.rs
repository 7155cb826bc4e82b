//! What an admin may ask of a controller, and one controller of another.

use cframe_pki::{Fingerprint, Serial, identity::Label};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AuditQuery, Congestion, Endpoint, Settings, Version};
use crate::frame::message;

/// Admin → controller: the only frame on a bidirectional stream that the admin opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRequest {
    /// What to do.
    pub call: Call,
    /// Check and answer as if, and change nothing.
    pub dry_run: bool,
}

/// One admin call. Its comment names the [`Reply`](super::Reply) that answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// → `Version`.
    Version,
    /// → `Status`.
    Status,
    /// Adds a namespace → `Changed`.
    NamespaceAdd {
        /// Its name.
        name: Label,
        /// Its settings.
        settings: Settings,
        /// For people.
        description: String,
    },
    /// Changes a namespace's settings, those that are given → `Changed`.
    NamespaceSet {
        /// Its name.
        name: Label,
        /// MTU of the TUN devices in bytes, 1280 to 1500.
        tun_mtu: Option<u16>,
        /// Congestion control of links.
        congestion: Option<Congestion>,
    },
    /// Removes a namespace → `Changed`.
    NamespaceDel {
        /// Its name.
        name: Label,
        /// Its edges, routes and tokens too; without this it must have no edges.
        cascade: bool,
    },
    /// All namespaces → `Namespaces`.
    NamespaceList,
    /// One namespace → `Namespaces`.
    NamespaceShow {
        /// Its name.
        name: Label,
    },
    /// Adds an edge → `Changed`.
    EdgeAdd {
        /// The namespace.
        namespace: Label,
        /// The edge's name.
        name: Label,
        /// Site prefixes.
        cidrs: Vec<IpNet>,
        /// Where it is dialled, in order of preference.
        endpoints: Vec<Endpoint>,
        /// For people.
        description: String,
    },
    /// Changes an edge, what is given, in one transaction → `Changed`.
    EdgeSet {
        /// The namespace.
        namespace: Label,
        /// The edge's name.
        name: Label,
        /// All of its site prefixes.
        cidrs: Option<Vec<IpNet>>,
        /// All of its endpoints.
        endpoints: Option<Vec<Endpoint>>,
        /// For people.
        description: Option<String>,
    },
    /// Removes an edge and denies its certificates → `Changed`.
    EdgeDel {
        /// The namespace.
        namespace: Label,
        /// The edge's name.
        name: Label,
    },
    /// Edges of one or all namespaces → `Edges`.
    EdgeList {
        /// The namespace; `None` is all.
        namespace: Option<Label>,
    },
    /// One edge → `Edges`.
    EdgeShow {
        /// The namespace.
        namespace: Label,
        /// The edge's name.
        name: Label,
    },
    /// One more prefix behind an edge → `Changed`.
    RouteAdd {
        /// The namespace.
        namespace: Label,
        /// The route's name.
        name: Label,
        /// The prefix.
        prefix: IpNet,
        /// The edge it is behind.
        edge: Label,
    },
    /// Removes a route → `Changed`.
    RouteDel {
        /// The namespace.
        namespace: Label,
        /// The route's name.
        name: Label,
    },
    /// Routes of one or all namespaces → `Routes`.
    RouteList {
        /// The namespace; `None` is all.
        namespace: Option<Label>,
    },
    /// One route → `Routes`.
    RouteShow {
        /// The namespace.
        namespace: Label,
        /// The route's name.
        name: Label,
    },
    /// Makes a join token → `TokenMade`.
    TokenCreate {
        /// The namespace.
        namespace: Label,
        /// The edge that may join with it.
        edge: Label,
        /// Seconds until it expires, at most 86,400.
        ttl_secs: u32,
        /// The edge has joined before and joins again, with a new key.
        rejoin: bool,
    },
    /// Tokens that can still be used, of one or all namespaces → `Tokens`.
    TokenList {
        /// The namespace; `None` is all.
        namespace: Option<Label>,
    },
    /// Makes a token void → `Changed`.
    TokenRevoke {
        /// Its id in hex.
        id: String,
    },
    /// A certificate for an edge that cannot reach the controller yet → `Enrolled`.
    CertEnroll {
        /// The namespace.
        namespace: Label,
        /// The edge.
        edge: Label,
        /// PKCS #10 request in DER. Only its public key is used.
        csr: Vec<u8>,
    },
    /// Certificates of one or all namespaces → `Certs`.
    CertList {
        /// The namespace; `None` is all, controllers and admins too.
        namespace: Option<Label>,
    },
    /// One certificate → `Certs`.
    CertShow {
        /// Its serial.
        serial: Serial,
    },
    /// Denies a certificate at once → `Changed`.
    CertRevoke {
        /// Its serial.
        serial: Serial,
        /// For people.
        reason: String,
    },
    /// Asks an edge that is connected to renew its certificate now → `Changed`.
    CertRenew {
        /// The namespace.
        namespace: Label,
        /// The edge.
        edge: Label,
    },
    /// A certificate for an admin → `AdminEnrolled`.
    AdminAdd {
        /// The admin's name.
        name: Label,
        /// PKCS #10 request in DER. Only its public key is used.
        csr: Vec<u8>,
        /// May look and change nothing.
        read_only: bool,
    },
    /// Removes an admin and denies its certificates → `Changed`.
    AdminDel {
        /// The admin's name.
        name: Label,
    },
    /// All admins → `Admins`.
    AdminList,
    /// Distrusts an issuing CA, a stolen controller's → `Changed`.
    IssuerRevoke {
        /// SHA-256 of the CA's public key (SPKI).
        fingerprint: Fingerprint,
    },
    /// The trust bundle → `Trust`.
    TrustShow,
    /// Waits until the namespace's edges that are connected to any controller have a version → several
    /// `Progress`, and `Unheard` whenever another set of controllers does not answer.
    Wait {
        /// The namespace.
        namespace: Label,
        /// The version.
        version: Version,
        /// Gives up after these seconds.
        timeout_secs: u32,
    },
    /// A logical dump of the store, without any private key → several `Chunk`.
    Backup,
    /// Records of the audit log, the oldest first → several `Audit`, empty ones too. With `follow` they go on
    /// until the asker goes.
    Audit(AuditQuery),
    /// All controllers, those that don't run too → `Controllers`.
    ControllerList,
    /// One controller → `Controllers`.
    ControllerShow {
        /// Its name.
        name: Label,
    },
    /// Removes a controller that doesn't run, and denies its certificates → `Changed`.
    ControllerDel {
        /// Its name.
        name: Label,
        /// Distrust all its issuing CAs too, which cuts off whoever has a certificate of them. Then it may run.
        revoke_issuer: bool,
    },
    /// From another controller: the sessions that this one has or had → `Sessions`.
    Sessions {
        /// Of this namespace; `None` is all.
        namespace: Option<Label>,
        /// Of this edge of it; `None` is all.
        edge: Option<Label>,
        /// Of links no more than which are up.
        brief: bool,
    },
    /// From another controller: which of a namespace's edges that are connected here lack a version, now and
    /// at every change → several `Behind`, at least one a second.
    Behind {
        /// The namespace.
        namespace: Label,
        /// The version.
        version: Version,
        /// Ends after these seconds.
        timeout_secs: u32,
    },
    /// The roots and issuing CAs, and what hangs on each → `Ca`.
    CaStatus,
    /// Whose newest valid certificate is under a root or an issuing CA → `Holders`.
    CaHolders {
        /// SHA-256 of the CA's public key (SPKI).
        fingerprint: Fingerprint,
    },
    /// Adds a root to the trust bundle → `Changed`.
    RootAdd {
        /// The root's certificate in DER.
        certificate: Vec<u8>,
    },
    /// Removes a root from the trust bundle → `Changed`.
    RootDrop {
        /// SHA-256 of the root's public key (SPKI).
        fingerprint: Fingerprint,
        /// Although somebody depends on it.
        force: bool,
    },
}

impl Call {
    /// The call's name for logs: `edge-add`, `cert-revoke`, …
    pub fn name(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Status => "status",
            Self::NamespaceAdd { .. } => "namespace-add",
            Self::NamespaceSet { .. } => "namespace-set",
            Self::NamespaceDel { .. } => "namespace-del",
            Self::NamespaceList => "namespace-list",
            Self::NamespaceShow { .. } => "namespace-show",
            Self::EdgeAdd { .. } => "edge-add",
            Self::EdgeSet { .. } => "edge-set",
            Self::EdgeDel { .. } => "edge-del",
            Self::EdgeList { .. } => "edge-list",
            Self::EdgeShow { .. } => "edge-show",
            Self::RouteAdd { .. } => "route-add",
            Self::RouteDel { .. } => "route-del",
            Self::RouteList { .. } => "route-list",
            Self::RouteShow { .. } => "route-show",
            Self::TokenCreate { .. } => "token-create",
            Self::TokenList { .. } => "token-list",
            Self::TokenRevoke { .. } => "token-revoke",
            Self::CertEnroll { .. } => "cert-enroll",
            Self::CertList { .. } => "cert-list",
            Self::CertShow { .. } => "cert-show",
            Self::CertRevoke { .. } => "cert-revoke",
            Self::CertRenew { .. } => "cert-renew",
            Self::AdminAdd { .. } => "admin-add",
            Self::AdminDel { .. } => "admin-del",
            Self::AdminList => "admin-list",
            Self::IssuerRevoke { .. } => "issuer-revoke",
            Self::TrustShow => "trust-show",
            Self::Wait { .. } => "wait",
            Self::Backup => "backup",
            Self::Audit(_) => "audit",
            Self::ControllerList => "controller-list",
            Self::ControllerShow { .. } => "controller-show",
            Self::ControllerDel { .. } => "controller-del",
            Self::Sessions { .. } => "sessions",
            Self::Behind { .. } => "behind",
            Self::CaStatus => "ca-status",
            Self::CaHolders { .. } => "ca-holders",
            Self::RootAdd { .. } => "root-add",
            Self::RootDrop { .. } => "root-drop",
        }
    }
}

message!(AdminRequest = 40);
