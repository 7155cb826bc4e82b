//! Who may make which call.

use cframe_pki::identity::Label;
use cframe_protocol::v1::{CallError, ErrorCode};

use super::call::{Access, Descriptor};

/// The holder of a client certificate on the control port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// An edge may have a session and make no calls.
    Edge,
    Admin {
        name: Label,
        read_only: bool,
    },
    /// Another controller.
    Controller {
        name: Label,
    },
}

/// Whether a holder may make a call.
///
/// # Errors
/// `NotAllowed`, with who may.
pub fn permit(holder: &Holder, call: &Descriptor) -> Result<(), CallError> {
    use Access::{Controller, Read, ReadOrController, Write, WriteOrController, WriteOrSelf};
    let Descriptor { name: call, access, .. } = call;
    let refused = |message: String| Err(CallError::new(ErrorCode::NotAllowed, message));
    match (holder, access) {
        (Holder::Admin { .. }, Read | ReadOrController)
        | (Holder::Admin { read_only: false, .. }, Write | WriteOrController | WriteOrSelf(_))
        | (Holder::Controller { .. }, Controller | ReadOrController | WriteOrController) => Ok(()),
        // Otherwise a read-only admin could not renew its certificate.
        (Holder::Admin { name, .. }, WriteOrSelf(own)) if name == own => Ok(()),
        (Holder::Admin { name, .. }, Write | WriteOrController | WriteOrSelf(_)) => {
            refused(format!(
                "admin {name} is read-only: {call} needs an admin that was added without --read-only"
            ))
        }
        (Holder::Admin { .. }, Controller) => {
            refused(format!("{call} is for controllers; as an admin, use `cfctl edge list`"))
        }
        (Holder::Controller { name }, Read | Write | WriteOrSelf(_)) => refused(format!(
            "controller {name} may not call {call}: it needs an admin's certificate"
        )),
        (Holder::Edge, _) => {
            refused(format!("an edge may not call {call}: it needs an admin's certificate"))
        }
    }
}
