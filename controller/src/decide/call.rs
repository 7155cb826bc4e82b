//! What the controller must know of a call before it is decided, in one table.

use cframe_pki::{Serial, identity::Label};
use cframe_protocol::v1::Call;

use crate::model::record::TokenKey;

/// One call, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// In logs, metrics and the audit log: `edge-add`.
    pub name: &'static str,
    /// Which function of `serve::calls` answers it.
    pub noun: Noun,
    pub access: Access,
    pub namespace: Option<Label>,
    /// What it is about: `prod/aws-hk`; empty for the whole mesh. Never a secret or a request.
    pub subject: String,
    /// For calls that write.
    pub lane: Lane,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    Mesh,
    Namespace,
    Edge,
    Route,
    Token,
    Cert,
    Admin,
    Ca,
    Controller,
    /// Answers that go on for a while: `wait`, and following the audit log.
    Stream,
}

/// Who may make a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Every admin: it shows nothing secret.
    Read,
    /// Every admin, and other controllers.
    ReadOrController,
    /// Admins that are not read-only: it changes something, or shows what only they may see.
    Write,
    /// Admins that are not read-only, and this admin for itself.
    WriteOrSelf(Label),
    /// Admins that are not read-only, and other controllers.
    WriteOrController,
    /// Other controllers only.
    Controller,
}

impl Access {
    /// A call that only reads leaves a record in the audit log only if it is not allowed.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read | Self::ReadOrController | Self::Controller)
    }
}

/// Writers in the same lane of one controller take turns, so that they rarely conflict in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    Mesh,
    Namespace(Label),
    Token(TokenKey),
    Admin(Label),
    Controller(Label),
    /// The namespace of the certificate's holder; if it has none, the mesh.
    HolderOf(Serial),
}

/// Describes a call.
pub fn describe(call: &Call) -> Descriptor {
    let About { noun, access, namespace, subject, lane } = about(call);
    Descriptor { name: call.name(), noun, access, namespace, subject, lane }
}

fn about(call: &Call) -> About {
    use Access::{Controller, Read, ReadOrController, Write, WriteOrController, WriteOrSelf};
    match call {
        Call::Version | Call::TrustShow => About::mesh(Noun::Mesh, Read),
        Call::Status => About::mesh(Noun::Mesh, ReadOrController),
        Call::Audit(query) => {
            About::mesh(Noun::Stream, Read).in_namespace(query.namespace.as_ref())
        }
        Call::Backup => About::mesh(Noun::Mesh, Write),
        Call::NamespaceAdd { name, .. }
        | Call::NamespaceSet { name, .. }
        | Call::NamespaceDel { name, .. } => About::namespace(Noun::Namespace, Write, name),
        Call::NamespaceList => About::mesh(Noun::Namespace, Read),
        Call::NamespaceShow { name } => About::namespace(Noun::Namespace, Read, name),
        Call::Wait { namespace, .. } => About::namespace(Noun::Stream, Read, namespace),
        Call::EdgeAdd { namespace, name, .. }
        | Call::EdgeSet { namespace, name, .. }
        | Call::EdgeDel { namespace, name } => About::within(Noun::Edge, Write, namespace, name),
        Call::EdgeList { namespace } => About::list(Noun::Edge, namespace.as_ref()),
        Call::EdgeShow { namespace, name } => About::within(Noun::Edge, Read, namespace, name),
        Call::RouteAdd { namespace, name, .. } | Call::RouteDel { namespace, name } => {
            About::within(Noun::Route, Write, namespace, name)
        }
        Call::RouteList { namespace } => About::list(Noun::Route, namespace.as_ref()),
        Call::RouteShow { namespace, name } => About::within(Noun::Route, Read, namespace, name),
        Call::TokenCreate { namespace, edge, .. } => {
            About::within(Noun::Token, Write, namespace, edge)
        }
        Call::TokenList { namespace } => About::list(Noun::Token, namespace.as_ref()),
        Call::TokenRevoke { id } => match id.parse::<TokenKey>() {
            Ok(key) => About::named(Noun::Token, Write, key).in_lane(Lane::Token(key)),
            // It may be a whole token, pasted instead of its id.
            Err(_) => About::named(Noun::Token, Write, "?"),
        },
        Call::CertEnroll { namespace, edge, .. } => {
            About::within(Noun::Cert, Write, namespace, edge)
        }
        Call::CertRenew { namespace, edge } => {
            About::within(Noun::Cert, WriteOrController, namespace, edge)
        }
        Call::CertList { namespace } => About::list(Noun::Cert, namespace.as_ref()),
        Call::CertShow { serial } => About::named(Noun::Cert, Read, serial),
        Call::CertRevoke { serial, .. } => {
            About::named(Noun::Cert, Write, serial).in_lane(Lane::HolderOf(*serial))
        }
        Call::AdminAdd { name, .. } => About::admin(WriteOrSelf(name.clone()), name),
        Call::AdminDel { name } => About::admin(Write, name),
        Call::AdminList => About::mesh(Noun::Admin, Read),
        Call::CaStatus => About::mesh(Noun::Ca, Read),
        Call::CaHolders { fingerprint } => About::named(Noun::Ca, Read, fingerprint),
        Call::IssuerRevoke { fingerprint } | Call::RootDrop { fingerprint, .. } => {
            About::named(Noun::Ca, Write, fingerprint)
        }
        Call::RootAdd { .. } => About::mesh(Noun::Ca, Write),
        Call::ControllerList => About::mesh(Noun::Controller, Read),
        Call::ControllerShow { name } => About::named(Noun::Controller, Read, name),
        Call::ControllerDel { name, .. } => About::named(Noun::Controller, Write, name),
        Call::Sessions { namespace, .. } => {
            About::mesh(Noun::Mesh, Controller).in_namespace(namespace.as_ref())
        }
        Call::Behind { namespace, .. } => About::namespace(Noun::Stream, Controller, namespace),
    }
}

/// A [`Descriptor`] without the name.
struct About {
    noun: Noun,
    access: Access,
    namespace: Option<Label>,
    subject: String,
    lane: Lane,
}

impl About {
    fn mesh(noun: Noun, access: Access) -> Self {
        Self { noun, access, namespace: None, subject: String::new(), lane: Lane::Mesh }
    }

    fn named(noun: Noun, access: Access, subject: impl ToString) -> Self {
        Self { subject: subject.to_string(), ..Self::mesh(noun, access) }
    }

    fn namespace(noun: Noun, access: Access, name: &Label) -> Self {
        let lane = Lane::Namespace(name.clone());
        Self::named(noun, access, name).in_namespace(Some(name)).in_lane(lane)
    }

    fn within(noun: Noun, access: Access, namespace: &Label, name: &Label) -> Self {
        Self { subject: format!("{namespace}/{name}"), ..Self::namespace(noun, access, namespace) }
    }

    fn list(noun: Noun, namespace: Option<&Label>) -> Self {
        namespace.map_or_else(
            || Self::mesh(noun, Access::Read),
            |name| Self::namespace(noun, Access::Read, name),
        )
    }

    fn admin(access: Access, name: &Label) -> Self {
        Self::named(Noun::Admin, access, name).in_lane(Lane::Admin(name.clone()))
    }

    fn in_namespace(self, namespace: Option<&Label>) -> Self {
        Self { namespace: namespace.cloned(), ..self }
    }

    fn in_lane(self, lane: Lane) -> Self {
        Self { lane, ..self }
    }
}
