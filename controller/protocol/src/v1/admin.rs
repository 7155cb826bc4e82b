//! Calls of admins to a controller, and of one controller to another.

use std::net::SocketAddr;

use cframe_pki::{Fingerprint, Serial, identity::Label};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{AuditQuery, Congestion, Endpoint, Settings, Version};
use crate::frame::message;

/// Admin → controller: the only frame on a bidirectional stream that the admin opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRequest {
    pub call: Call,
    /// The controller checks and answers the call, and changes nothing.
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
    NamespaceAdd { name: Label, settings: Settings, description: String },
    /// Changes those settings that are given → `Changed`.
    NamespaceSet {
        name: Label,
        /// MTU of the TUN devices in bytes, 1280 to 1500.
        tun_mtu: Option<u16>,
        congestion: Option<Congestion>,
    },
    /// Removes a namespace → `Changed`.
    NamespaceDel {
        name: Label,
        /// Remove its edges, routes and tokens too. Otherwise it must have no edges.
        cascade: bool,
    },
    /// All namespaces → `Namespaces`.
    NamespaceList,
    /// One namespace → `Namespaces`.
    NamespaceShow { name: Label },
    /// Adds an edge → `Changed`.
    EdgeAdd {
        namespace: Label,
        name: Label,
        /// Site prefixes.
        cidrs: Vec<IpNet>,
        /// In order of preference.
        endpoints: Vec<Endpoint>,
        description: String,
    },
    /// Changes what is given, in one transaction → `Changed`.
    EdgeSet {
        namespace: Label,
        name: Label,
        /// Replaces all site prefixes.
        cidrs: Option<Vec<IpNet>>,
        /// Replaces all endpoints.
        endpoints: Option<Vec<Endpoint>>,
        description: Option<String>,
        /// Replaces the edges that it needs no link to.
        no_link_to: Option<Vec<Label>>,
    },
    /// Removes an edge and denies its certificates → `Changed`.
    EdgeDel { namespace: Label, name: Label },
    /// Edges of one or all namespaces → `Edges`.
    EdgeList {
        /// `None`: all.
        namespace: Option<Label>,
    },
    /// One edge → `Edges`.
    EdgeShow { namespace: Label, name: Label },
    /// Adds a prefix behind an edge → `Changed`.
    RouteAdd { namespace: Label, name: Label, prefix: IpNet, edge: Label },
    /// Removes a route → `Changed`.
    RouteDel { namespace: Label, name: Label },
    /// Routes of one or all namespaces → `Routes`.
    RouteList {
        /// `None`: all.
        namespace: Option<Label>,
    },
    /// One route → `Routes`.
    RouteShow { namespace: Label, name: Label },
    /// Makes a join token → `TokenMade`.
    TokenCreate {
        namespace: Label,
        edge: Label,
        /// At most 86,400.
        ttl_secs: u32,
        /// For an edge that has joined before and needs a new key.
        rejoin: bool,
    },
    /// Unused and valid tokens of one or all namespaces → `Tokens`.
    TokenList {
        /// `None`: all.
        namespace: Option<Label>,
    },
    /// Revokes a token → `Changed`.
    TokenRevoke {
        /// In hex.
        id: String,
    },
    /// A certificate for an edge that cannot reach the controller yet → `Enrolled`.
    CertEnroll {
        namespace: Label,
        edge: Label,
        /// PKCS#10 in DER. Only its public key is used.
        csr: Vec<u8>,
    },
    /// Certificates of one or all namespaces → `Certs`.
    CertList {
        /// `None`: all, and those of controllers and admins.
        namespace: Option<Label>,
    },
    /// One certificate → `Certs`.
    CertShow { serial: Serial },
    /// Revokes a certificate → `Changed`.
    CertRevoke { serial: Serial, reason: String },
    /// Makes a connected edge renew its certificate now → `Changed`.
    CertRenew { namespace: Label, edge: Label },
    /// A certificate for an admin → `AdminEnrolled`.
    AdminAdd {
        name: Label,
        /// PKCS#10 in DER. Only its public key is used.
        csr: Vec<u8>,
        read_only: bool,
    },
    /// Removes an admin and denies its certificates → `Changed`.
    AdminDel { name: Label },
    /// All admins → `Admins`.
    AdminList,
    /// Revokes an issuing CA → `Changed`.
    IssuerRevoke {
        /// SHA-256 of the CA's SPKI.
        fingerprint: Fingerprint,
    },
    /// The trust bundle → `Trust`.
    TrustShow,
    /// Waits until all connected edges of a namespace have a version → several `Progress`, and `Unheard`
    /// whenever the set of controllers that don't answer changes.
    Wait { namespace: Label, version: Version, timeout_secs: u32 },
    /// A dump of the store, which has no private keys → several `Chunk`.
    Backup,
    /// Records of the audit log, oldest first → several `Audit`, some of them empty. With `follow` they
    /// continue until the caller closes the stream.
    Audit(AuditQuery),
    /// All registered controllers, running or not → `Controllers`.
    ControllerList,
    /// One controller → `Controllers`.
    ControllerShow { name: Label },
    /// Removes a controller and revokes its certificates → `Changed`.
    ControllerDel {
        name: Label,
        /// Also revoke all its issuing CAs, which cuts off everyone with a certificate of theirs. Without
        /// this the controller must not be running.
        revoke_issuer: bool,
    },
    /// From another controller: this one's current and past sessions → `Sessions`.
    Sessions {
        /// `None`: all.
        namespace: Option<Label>,
        /// `None`: all.
        edge: Option<Label>,
        /// Of each link only its peer and whether it is up.
        brief: bool,
    },
    /// From another controller: which edges that are connected here don't have a version yet, now and at
    /// every change → several `Behind`, at least one per second.
    Behind { namespace: Label, version: Version, timeout_secs: u32 },
    /// The roots and issuing CAs, and how many certificates depend on each → `Ca`.
    CaStatus,
    /// Participants whose newest valid certificate depends on a root or an issuing CA → `Holders`.
    CaHolders {
        /// SHA-256 of the CA's SPKI.
        fingerprint: Fingerprint,
    },
    /// Adds a root to the trust bundle → `Changed`.
    RootAdd {
        /// In DER.
        certificate: Vec<u8>,
    },
    /// Removes a root from the trust bundle → `Changed`.
    RootDrop {
        /// SHA-256 of the root's SPKI.
        fingerprint: Fingerprint,
        /// Even if certificates depend on it.
        force: bool,
    },
    /// Takes the store as it is, after it was replaced by an older copy: a new epoch, which every edge follows →
    /// `Changed`.
    StoreAccept,
    /// From another controller, with which a process of this edge has started a session: whether another process of
    /// the edge has one here and answers → `Sessions`, with that one or empty.
    Claim {
        namespace: Label,
        edge: Label,
        /// Of the process that has started the session.
        boot: [u8; 16],
        /// Where that process is.
        address: SocketAddr,
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
            Self::StoreAccept => "store-accept",
            Self::Claim { .. } => "claim",
        }
    }
}

message!(AdminRequest = 40);
