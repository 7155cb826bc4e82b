//! Certificates that this store does not know: issued after the backup that it was restored from.

use std::net::SocketAddr;

use cframe_pki::{identity::Role, verifier::PeerIdentity};
use cframe_protocol::v1::CallError;

use crate::{
    audit::Act,
    draft::Draft,
    mesh::Mesh,
    model::State,
    record::{self, Key},
};

/// Records a verified certificate, so that it is listed, and denied with its edge.
pub(super) async fn adopt(mesh: &Mesh, peer: &PeerIdentity, from: SocketAddr) {
    if mesh.read(|state| state.certs.contains_key(&peer.serial)) {
        return;
    }
    let Role::Edge { namespace, name } = &peer.id.role else { return };
    let act = Act::by(peer, from, "adopt").about(namespace, name);
    match mesh.write(namespace.as_str(), &act, |state| decide(state, peer)).await {
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
        if let Role::Edge { namespace, name } = &peer.id.role
            && let Some(edge) = state.namespaces.get(namespace).and_then(|of| of.edges.get(name))
        {
            draft.rewrite(Key::Edge(namespace.clone(), name.clone()), edge);
        }
        draft.compare(key.clone(), 0);
        draft.put(key, &record);
    }
    Ok((draft, ()))
}
