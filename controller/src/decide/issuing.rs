//! Records of certificates and of the CAs that issue them.

use cframe_pki::identity::{Label, PeerIdentity, Role};

use super::{draft::Draft, edge};
use crate::{
    keys::issuer::Issuer,
    model::{
        State,
        record::{CertRecord, ControllerRecord, IssuerRecord, Key},
    },
};

/// Records that a controller signs with this CA and not with its others, also in its registration if it has one.
pub(crate) fn record_issuer(
    draft: &mut Draft,
    state: &State,
    issuer: &Issuer,
    controller: &Label,
    now: u64,
) {
    let own = issuer.ca().spki_sha256();
    let record = issuer.record(state, controller, now);
    let known = state.issuers.get(&own);
    if known.is_none_or(|known| known.record != record) {
        draft.compare(Key::Issuer(own), known.map_or(0, |known| known.modified));
        draft.put(Key::Issuer(own), &record);
    }
    let others = state.issuers.iter().filter(|(spki, other)| {
        **spki != own && other.record.controller == *controller && other.record.signs
    });
    for (spki, other) in others {
        draft.compare(Key::Issuer(*spki), other.modified);
        draft.put(Key::Issuer(*spki), &IssuerRecord { signs: false, ..other.record.clone() });
    }
    if let Some(registered) = state.controllers.get(controller) {
        let certificate = issuer.ca().certificate();
        draft.compare(Key::Controller(controller.clone()), registered.modified);
        if registered.record.issuer != *certificate {
            let issuer = certificate.clone();
            let record = ControllerRecord { issuer, ..registered.record.clone() };
            draft.put(Key::Controller(controller.clone()), &record);
        }
    }
}

/// Records a verified certificate that the store does not have: it was issued after the backup that the store was
/// restored from.
pub(crate) fn record_known_cert(draft: &mut Draft, state: &State, peer: &PeerIdentity) {
    if state.certs.contains_key(&peer.serial) {
        return;
    }
    if let Role::Edge { namespace, name } = &peer.id.role
        && let Some(space) = state.namespaces.get(namespace)
        && let Some(found) = space.edges.get(name)
    {
        edge::record_joined(draft, (namespace, space), name, found);
    }
    draft.compare(Key::Cert(peer.serial), 0);
    draft.put(Key::Cert(peer.serial), &CertRecord::from(peer));
}
