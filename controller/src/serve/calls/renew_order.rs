//! `cert renew`: orders an edge to renew its certificate, through the controller that it is connected to.

use cframe_pki::identity::Label;
use cframe_protocol::{
    session::CallFailure,
    v1::{Call, CallError, Changed, EdgeLiveness, ErrorCode, Reply},
};

use super::request::Request;
use crate::{
    decide::{edge, names::list_names},
    model::standing::Standing,
    peers,
    sessions::{Order, all::SessionFilter},
};

/// An order that comes from another controller is not passed on.
pub(super) async fn renew(
    request: &Request<'_>,
    namespace: &Label,
    edge: &Label,
) -> Result<Reply, CallError> {
    let (context, replica) = (request.context, &request.context.replica);
    let version = replica.read(|state| {
        edge::find_in(state, namespace, edge)?;
        Ok::<_, CallError>(state.version(namespace).unwrap_or_default())
    })?;
    let changed = || Reply::Changed(Changed { version, warnings: Vec::new() });
    let mut unanswered = Vec::new();
    if request.dry_run {
        let filter = SessionFilter { namespace: Some(namespace), edge: Some(edge), brief: true };
        let sessions = peers::all_sessions(context, filter).await;
        let seen = sessions.last_seen(namespace, edge);
        if matches!(sessions.liveness(seen.as_ref(), Standing::Joined), EdgeLiveness::Online { .. })
        {
            return Ok(changed());
        }
        unanswered.extend(sessions.unanswered().iter().map(|(name, _)| name.clone()));
    } else if replica.sessions.send_order(namespace, edge, Order::RenewNow) {
        return Ok(changed());
    } else if !request.by_controller() {
        let call = Call::CertRenew { namespace: namespace.clone(), edge: edge.clone() };
        for (name, answer) in peers::ask_all(context, &call).await {
            match answer {
                Ok(_) => return Ok(changed()),
                // The edge is not connected to that controller either.
                Err(CallFailure::Refused(_)) => {}
                Err(_) => unanswered.push(name),
            }
        }
    }
    let mut error = CallError::new(
        ErrorCode::Unavailable,
        format!(
            "edge {edge} of namespace {namespace} has no session with a controller; it renews by itself when \
             it comes back"
        ),
    );
    if !unanswered.is_empty() {
        let names = list_names(&unanswered);
        error.hint = Some(format!("no answer of controller {names}, which may have one"));
    }
    Err(error)
}
