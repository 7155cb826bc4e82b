//! Certificates that the store does not have: issued after the backup that it was restored from.

use crate::{
    audit::Act,
    decide::{call::Lane, draft::Draft, issuing},
    mesh::Replica,
    model::State,
};

use super::EdgeIdentity;

/// Records the edge's certificate if the store does not have it, so that it is listed, and denied when the edge is
/// removed.
pub(super) async fn record(replica: &Replica, edge: &EdgeIdentity) {
    let EdgeIdentity { peer, address, namespace, name } = edge;
    if replica.read(|state| state.certs.contains_key(&peer.serial)) {
        return;
    }
    let act = Act::by(peer, *address, "adopt").about(namespace, name);
    let decide = |state: &State| {
        let mut draft = Draft::default();
        issuing::record_known_cert(&mut draft, state, peer);
        Ok((draft, ()))
    };
    match replica.write(&Lane::Namespace(namespace.clone()), &act, decide).await {
        Ok(_) => {
            tracing::info!(id = %peer.id, serial = %peer.serial, "recorded a certificate that the store did not have");
        }
        Err(error) => {
            tracing::warn!(id = %peer.id, %error, "cannot record a certificate that the store does not have");
        }
    }
}
