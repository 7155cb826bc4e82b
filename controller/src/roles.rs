//! Who may call what. A table, and the default is no.

use cframe_pki::identity::Label;
use cframe_protocol::v1::{Call, CallError, ErrorCode};

/// The holder of a client certificate on the control port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// An edge: its session is all that it has.
    Edge,
    /// An admin.
    Admin {
        /// Its name.
        name: Label,
        /// It may look and not change.
        read_only: bool,
    },
    /// Another controller: it may ask for what this one alone knows.
    Controller {
        /// Its name.
        name: Label,
    },
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// It shows what is no secret.
    Look,
    /// It changes something, or shows what only admins may see.
    Change,
    /// It is one controller's question to another.
    Peer,
}

/// Whether a holder may make a call.
///
/// # Errors
/// `NotAllowed`, saying who may.
pub fn permit(holder: &Holder, call: &Call) -> Result<(), CallError> {
    let refused = |why: String| Err(CallError::new(ErrorCode::NotAllowed, why));
    match (holder, access(call)) {
        (Holder::Admin { read_only: false, .. }, Access::Look | Access::Change)
        | (Holder::Admin { read_only: true, .. }, Access::Look) => Ok(()),
        (Holder::Admin { name, read_only: true }, Access::Change) => {
            // Else a read-only admin would be one for 30 days at most.
            if matches!(call, Call::AdminAdd { name: renewed, .. } if renewed == name) {
                return Ok(());
            }
            refused(format!(
                "admin {name} may look and not change: {} needs an admin that was added without \
                 --read-only",
                call.name()
            ))
        }
        (Holder::Admin { .. }, Access::Peer) => refused(format!(
            "{} is for controllers; an admin looks at `cfctl edge list`",
            call.name()
        )),
        // The status is this controller's own part, and the order to renew goes no further.
        (Holder::Controller { .. }, Access::Peer) => Ok(()),
        (Holder::Controller { .. }, _) if matches!(call, Call::Status | Call::CertRenew { .. }) => {
            Ok(())
        }
        (Holder::Controller { name }, _) => refused(format!(
            "controller {name} may not call {}: it needs an admin's certificate",
            call.name()
        )),
        (Holder::Edge, _) => refused(format!(
            "an edge may not call {}: it needs an admin's certificate",
            call.name()
        )),
    }
}

/// Whether a call only shows what is no secret; one controller's question to another does no more.
pub(crate) fn looks(call: &Call) -> bool {
    matches!(access(call), Access::Look | Access::Peer)
}

fn access(call: &Call) -> Access {
    match call {
        Call::Version
        | Call::Status
        | Call::NamespaceList
        | Call::NamespaceShow { .. }
        | Call::EdgeList { .. }
        | Call::EdgeShow { .. }
        | Call::RouteList { .. }
        | Call::RouteShow { .. }
        | Call::TokenList { .. }
        | Call::CertList { .. }
        | Call::CertShow { .. }
        | Call::AdminList
        | Call::TrustShow
        | Call::Wait { .. }
        | Call::Audit(_)
        | Call::ControllerList
        | Call::ControllerShow { .. }
        | Call::CaStatus
        | Call::CaHolders { .. } => Access::Look,
        Call::NamespaceAdd { .. }
        | Call::NamespaceSet { .. }
        | Call::NamespaceDel { .. }
        | Call::EdgeAdd { .. }
        | Call::EdgeSet { .. }
        | Call::EdgeDel { .. }
        | Call::RouteAdd { .. }
        | Call::RouteDel { .. }
        | Call::TokenCreate { .. }
        | Call::TokenRevoke { .. }
        | Call::CertEnroll { .. }
        | Call::CertRevoke { .. }
        | Call::CertRenew { .. }
        | Call::AdminAdd { .. }
        | Call::AdminDel { .. }
        | Call::IssuerRevoke { .. }
        | Call::ControllerDel { .. }
        | Call::RootAdd { .. }
        | Call::RootDrop { .. }
        | Call::Backup => Access::Change,
        Call::Sessions { .. } | Call::Behind { .. } => Access::Peer,
    }
}
