//! Certificates that this store does not know: issued after the backup that it was restored from.

use std::net::SocketAddr;

use cframe_pki::{identity::Role, verifier::PeerIdentity};
use cframe_protocol::v1::CallError;

use crate::{audit::Act, draft::Draft, issuing, mesh::Mesh, model::State};

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
    issuing::adopt(&mut draft, state, peer);
    Ok((draft, ()))
}
