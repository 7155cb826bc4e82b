//! Which controllers the mesh has: their records, and what follows for the addresses that edges are told.
//!
//! A registration stays while its controller is down, and the mesh's record has the addresses of all of them,
//! changed in the same transaction: so what edges know is versioned, and right when no controller runs.

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

use crate::{
    audit::{Act, Who},
    check::conflict,
    draft::Draft,
    model::State,
    record::{self, Key},
    server::Context,
};

/// Adds a controller, or replaces what is known of it.
///
/// # Errors
/// If all of them together have more addresses than an edge holds.
pub fn register(
    draft: &mut Draft,
    state: &State,
    name: &Label,
    record: &record::Controller,
) -> Result<(), CallError> {
    let key = Key::Controller(name.clone());
    draft.compare(key.clone(), state.controllers.get(name).map_or(0, |old| old.modified));
    draft.put(key, record);
    // What the addresses are taken from must not change meanwhile, also where they stay the same.
    draft.compare(Key::Mesh, state.mesh.modified);
    let controllers = addresses(state, name, &record.addresses);
    if controllers.len() > MAX_ENDPOINTS {
        return Err(conflict(format!(
            "the controllers would have {} addresses, and {MAX_ENDPOINTS} are the most there can be; give \
             this one fewer, or remove one that is gone (`cfctl controller del`)",
            controllers.len()
        )));
    }
    if controllers != state.mesh.record.controllers {
        draft.bump_mesh(&state.mesh, record::Mesh { controllers, ..state.mesh.record.clone() });
    }
    Ok(())
}

/// Writes a controller's registration again as it is, so that whoever removes the controller and this write decide upon
/// each other.
pub(crate) fn rely_on(draft: &mut Draft, state: &State, name: &Label) {
    let key = Key::Controller(name.clone());
    match state.controllers.get(name) {
        Some(registered) => draft.rewrite(key, registered),
        // A store from before there were registrations.
        None => draft.compare(key, 0),
    }
}

/// What edges are to be told if this controller has these addresses.
pub fn addresses(state: &State, name: &Label, own: &[Endpoint]) -> BTreeSet<Endpoint> {
    let others = state.controllers.iter().filter(|(other, _)| *other != name);
    let others = others.flat_map(|(_, other)| other.record.addresses.iter());
    others.chain(own).cloned().collect()
}

/// What the registration has of an issuing CA: the fingerprint of its public key, and when it expires in Unix
/// seconds.
///
/// # Errors
/// If the certificate is none.
pub fn issuer(record: &record::Controller) -> Result<(Fingerprint, u64), CaError> {
    let ca = CaCertificate::issuing(&record.issuer)?;
    Ok((ca.spki, ca.not_after))
}

/// Whether this controller is one of the mesh's.
pub(crate) fn is_member(context: &Context) -> bool {
    let accepted = context.mesh.trust().denial(&context.credentials.identity()).is_ok();
    accepted && context.mesh.read(|state| state.is_controller(&context.name()))
}

/// In a store from before there were registrations, has this controller take over all addresses that the mesh
/// has. It adds none to others: who was removed does not come back by itself.
///
/// # Errors
/// If the store does not take it.
pub(crate) async fn take_over(context: &Context) -> Result<(), CallError> {
    let name = context.name();
    let current = context.issuer.current();
    let decide = |state: &State| {
        let mut draft = Draft::default();
        if !state.controllers.is_empty() {
            return Ok((draft, ()));
        }
        let addresses = state.mesh.record.controllers.iter().cloned().collect();
        let issuer = current.ca().certificate().clone();
        let record = record::Controller { addresses, issuer, added: context.mesh.now() };
        register(&mut draft, state, &name, &record)?;
        Ok((draft, ()))
    };
    let mut act = Act::new(Who::Controller(name.clone()), "register");
    act.subject = name.to_string();
    context.mesh.write("", &act, decide).await.map(drop)
}
