//! Other processes with an edge's identity that have a session with another controller.

use std::sync::Arc;

use cframe_protocol::v1::{Call, Reply};

use crate::{context::Context, peers, sessions::Claim};

/// Waits until another controller says that another process of the edge has a session there and answers; for ever if
/// none does. The session goes on meanwhile: a controller that does not answer must not delay it.
pub(super) async fn held_elsewhere(context: &Arc<Context>, claim: &Claim<'_>) {
    let (namespace, edge) = claim.key.clone();
    let call = Call::Claim { namespace, edge, boot: claim.boot, address: claim.address };
    for (controller, answer) in peers::ask_all(context, &call).await {
        for reply in answer.into_iter().flatten() {
            let Reply::Sessions(rows) = reply else { continue };
            let Some(holder) = rows.first() else { continue };
            let (namespace, edge) = claim.key;
            tracing::warn!(
                %namespace, %edge, holder = %holder.address, %controller, refused = %claim.address,
                "two hosts use the identity of this edge: the one at another controller keeps its session"
            );
            return;
        }
    }
    std::future::pending().await
}
