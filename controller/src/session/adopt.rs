//! Certificates that this store does not know: issued after the backup that it was restored from.

use cframe_pki::verifier::PeerIdentity;
use cframe_protocol::v1::CallError;

use crate::{
    draft::Draft,
    mesh::Mesh,
    model::State,
    record::{self, Key},
};

/// Records a verified certificate, so that it is listed, and denied with its edge.
pub(super) async fn adopt(mesh: &Mesh, peer: &PeerIdentity) {
    if mesh.read(|state| state.certs.contains_key(&peer.serial)) {
        return;
    }
    let Some(namespace) = peer.id.role.namespace() else { return };
    match mesh.write(namespace.as_str(), |state| decide(state, peer)).await {
        Ok(_) => {
            tracing::info!(id = %peer.id, serial = %peer.serial, "an unknown certificate was recorded")
        }
        Err(error) => {
            tracing::warn!(id = %peer.id, %error, "an unknown certificate was not recorded")
        }
    }
}

fn decide(state: &State, peer: &PeerIdentity) -> Result<(Draft, ()), CallError> {
    let mut draft = Draft::default();
    let key = Key::Cert(peer.serial);
    if !state.certs.contains_key(&peer.serial) {
        let record = record::Cert {
            id: peer.id.clone(),
            spki: peer.spki,
            not_before: peer.not_before,
            not_after: peer.not_after,
            renews: None,
            issuer: peer.issuer,
            bundle: None,
        };
        draft.compare(key.clone(), 0);
        draft.put(key, &record);
    }
    Ok((draft, ()))
}
