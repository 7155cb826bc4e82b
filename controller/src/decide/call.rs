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

pub fn describe(call: &Call) -> Descriptor {
    Descriptor { name: call.name(), ..describe_unnamed(call) }
}

fn describe_unnamed(call: &Call) -> Descriptor {
    use Access::{Controller, Read, ReadOrController, Write, WriteOrController, WriteOrSelf};
    match call {
        Call::Version | Call::TrustShow => Descriptor::mesh(Noun::Mesh, Read),
        Call::Status => Descriptor::mesh(Noun::Mesh, ReadOrController),
        Call::Audit(query) => {
            Descriptor::mesh(Noun::Stream, Read).in_namespace(query.namespace.as_ref())
        }
        Call::Backup | Call::StoreAccept => Descriptor::mesh(Noun::Mesh, Write),
        Call::NamespaceAdd { name, .. }
        | Call::NamespaceSet { name, .. }
        | Call::NamespaceDel { name, .. } => Descriptor::namespace(Noun::Namespace, Write, name),
        Call::NamespaceList => Descriptor::mesh(Noun::Namespace, Read),
        Call::NamespaceShow { name } => Descriptor::namespace(Noun::Namespace, Read, name),
        Call::Wait { namespace, .. } => Descriptor::namespace(Noun::Stream, Read, namespace),
        Call::EdgeAdd { namespace, name, .. }
        | Call::EdgeSet { namespace, name, .. }
        | Call::EdgeDel { namespace, name } => {
            Descriptor::within(Noun::Edge, Write, namespace, name)
        }
        Call::EdgeList { namespace } => Descriptor::list(Noun::Edge, namespace.as_ref()),
        Call::EdgeShow { namespace, name } => Descriptor::within(Noun::Edge, Read, namespace, name),
        Call::RouteAdd { namespace, name, .. } | Call::RouteDel { namespace, name } => {
            Descriptor::within(Noun::Route, Write, namespace, name)
        }
        Call::RouteList { namespace } => Descriptor::list(Noun::Route, namespace.as_ref()),
        Call::RouteShow { namespace, name } => {
            Descriptor::within(Noun::Route, Read, namespace, name)
        }
        Call::TokenCreate { namespace, edge, .. } => {
            Descriptor::within(Noun::Token, Write, namespace, edge)
        }
        Call::TokenList { namespace } => Descriptor::list(Noun::Token, namespace.as_ref()),
        Call::TokenRevoke { id } => match id.parse::<TokenKey>() {
            Ok(key) => Descriptor::named(Noun::Token, Write, key).in_lane(Lane::Token(key)),
            // It may be a whole token, pasted instead of its id.
            Err(_) => Descriptor::named(Noun::Token, Write, "?"),
        },
        Call::CertEnroll { namespace, edge, .. } => {
            Descriptor::within(Noun::Cert, Write, namespace, edge)
        }
        Call::CertRenew { namespace, edge } => {
            Descriptor::within(Noun::Cert, WriteOrController, namespace, edge)
        }
        Call::CertList { namespace } => Descriptor::list(Noun::Cert, namespace.as_ref()),
        Call::CertShow { serial } => Descriptor::named(Noun::Cert, Read, serial),
        Call::CertRevoke { serial, .. } => {
            Descriptor::named(Noun::Cert, Write, serial).in_lane(Lane::HolderOf(*serial))
        }
        Call::AdminAdd { name, .. } => Descriptor::admin(WriteOrSelf(name.clone()), name),
        Call::AdminDel { name } => Descriptor::admin(Write, name),
        Call::AdminList => Descriptor::mesh(Noun::Admin, Read),
        Call::CaStatus => Descriptor::mesh(Noun::Ca, Read),
        Call::CaHolders { fingerprint } => Descriptor::named(Noun::Ca, Read, fingerprint),
        Call::IssuerRevoke { fingerprint } | Call::RootDrop { fingerprint, .. } => {
            Descriptor::named(Noun::Ca, Write, fingerprint)
        }
        Call::RootAdd { .. } => Descriptor::mesh(Noun::Ca, Write),
        Call::ControllerList => Descriptor::mesh(Noun::Controller, Read),
        Call::ControllerShow { name } => Descriptor::named(Noun::Controller, Read, name),
        Call::ControllerDel { name, .. } => Descriptor::named(Noun::Controller, Write, name),
        Call::Sessions { namespace, .. } => {
            Descriptor::mesh(Noun::Mesh, Controller).in_namespace(namespace.as_ref())
        }
        Call::Claim { namespace, edge, .. } => {
            Descriptor::named(Noun::Mesh, Controller, format_args!("{namespace}/{edge}"))
                .in_namespace(Some(namespace))
        }
        Call::Behind { namespace, .. } => {
            Descriptor::namespace(Noun::Stream, Controller, namespace)
        }
    }
}

impl Descriptor {
    fn mesh(noun: Noun, access: Access) -> Self {
        let (name, subject, lane) = ("", String::new(), Lane::Mesh);
        Self { name, noun, access, namespace: None, subject, lane }
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
