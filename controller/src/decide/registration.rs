//! Registrations of controllers, and the addresses that edges know.
//!
//! A registration stays while its controller is down. The mesh's record has the addresses of all controllers and is
//! changed in the same transaction, so that the edges' list is versioned and right even when no controller runs.

use std::collections::BTreeSet;

use cframe_pki::{
    Fingerprint,
    identity::Label,
    issue::{CaCertificate, CaError},
};
use cframe_protocol::{
    desired::MAX_ENDPOINTS,
    v1::{CallError, Endpoint},
};

use super::{check::conflict, draft::Draft};
use crate::model::{
    State,
    record::{ControllerRecord, Key, MeshRecord},
};

/// Adds a controller, or replaces its registration.
pub(crate) fn register(
    draft: &mut Draft,
    state: &State,
    name: &Label,
    record: &ControllerRecord,
) -> Result<(), CallError> {
    let key = Key::Controller(name.clone());
    draft.compare(key.clone(), state.controllers.get(name).map_or(0, |old| old.modified));
    draft.put(key, record);
    // Guards the other registrations too: all of them make up the addresses.
    draft.compare(Key::Mesh, state.mesh.modified);
    let controllers = addresses(state, name, &record.addresses);
    if controllers.len() > MAX_ENDPOINTS {
        return Err(conflict(format!(
            "the controllers would have {} addresses, the maximum is {MAX_ENDPOINTS}; give this one fewer, or remove \
             a controller that is gone (`cfctl controller del`)",
            controllers.len()
        )));
    }
    if controllers != state.mesh.record.controllers {
        draft.bump_mesh(&state.mesh, MeshRecord { controllers, ..state.mesh.record.clone() });
    }
    Ok(())
}

/// Writes a controller's registration again as it is: of this write and a removal of the controller, the later one
/// must be decided again.
pub(crate) fn guard(draft: &mut Draft, state: &State, name: &Label) {
    let key = Key::Controller(name.clone());
    match state.controllers.get(name) {
        Some(registered) => draft.rewrite(key, registered),
        // A store from before there were registrations.
        None => draft.compare(key, 0),
    }
}

/// The addresses that edges know if this controller has `own`.
pub(crate) fn addresses(state: &State, name: &Label, own: &[Endpoint]) -> BTreeSet<Endpoint> {
    let others = state.controllers.iter().filter(|(other, _)| *other != name);
    let others = others.flat_map(|(_, other)| other.record.addresses.iter());
    others.chain(own).cloned().collect()
}

/// The fingerprint of the issuing CA's public key, and when the CA expires in Unix seconds.
pub(crate) fn issuer(record: &ControllerRecord) -> Result<(Fingerprint, u64), CaError> {
    let ca = CaCertificate::issuing(&record.issuer)?;
    Ok((ca.spki, ca.not_after))
}
