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

/// Whether this controller is one of the mesh's, which it need not be to start on a store from before there
/// were registrations.
pub(crate) fn is_member(context: &Context) -> bool {
    let name = context.name();
    let accepted = context.mesh.trust().denial(&context.credentials.identity()).is_ok();
    let known = context
        .mesh
        .read(|state| state.controllers.is_empty() || state.controllers.contains_key(&name));
    accepted && known
}

/// Has the running controller's registration say what is so: its issuing CA, which may have been replaced.
/// In a store from before there were registrations, it takes over all addresses that the mesh has.
///
/// # Errors
/// If the store does not take it.
pub(crate) async fn refresh(context: &Context) -> Result<(), CallError> {
    let name = context.name();
    let current = context.issuer.current();
    let issuer = current.ca().certificate();
    let decide = |state: &State| {
        let mut draft = Draft::default();
        let old = state.controllers.get(&name).map(|stored| &stored.record);
        if old.is_some_and(|old| old.issuer == *issuer) {
            return Ok((draft, ()));
        }
        let addresses = match old {
            Some(old) => old.addresses.clone(),
            None => state.mesh.record.controllers.iter().cloned().collect(),
        };
        let added = old.map_or(context.mesh.now(), |old| old.added);
        let record = record::Controller { addresses, issuer: issuer.clone(), added };
        register(&mut draft, state, &name, &record)?;
        Ok((draft, ()))
    };
    let mut act = Act::new(Who::Controller(name.clone()), "register");
    act.subject = name.to_string();
    context.mesh.write("", &act, decide).await.map(drop)
}
