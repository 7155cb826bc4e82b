//! Controllers.

use std::collections::BTreeSet;

use cframe_pki::{Fingerprint, identity::Label};
use cframe_protocol::v1::{CallError, ErrorCode, RegistrationRow, Reply, Running};

use crate::{
    decide::{
        cert,
        check::{self, conflict},
        draft::Draft,
        names::natural,
        registration,
    },
    model::{
        State, Stored,
        record::{ControllerRecord, IssuerRecord, Key},
    },
};

pub(crate) fn list(state: &State) -> Result<Reply, CallError> {
    let rows = state.controllers.iter().map(|found| row(state, found));
    let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
    rows.sort_by(|one, other| natural(&one.name, &other.name));
    Ok(Reply::Controllers(rows))
}

pub(crate) fn show(state: &State, name: &Label) -> Result<Reply, CallError> {
    let found = find(state, name)?;
    Ok(Reply::Controllers(vec![row(state, (name, found))?]))
}

/// Removes a controller with its addresses and certificates. With `revoke_issuer`, also distrusts all its CAs: its host
/// has the keys of the earlier ones too.
pub(crate) fn delete(
    state: &State,
    name: &Label,
    revoke_issuer: bool,
    own: &Label,
    now: u64,
) -> Result<Draft, CallError> {
    let found = find(state, name)?;
    if name == own {
        return Err(conflict(format!(
            "{name} is the controller that you are connected to; stop it, and connect to another one"
        )));
    }
    let alive = state.alive.contains_key(name);
    if alive && !revoke_issuer {
        return Err(conflict(format!(
            "controller {name} runs, or did a moment ago; stop it first, or if its host is in other hands, cut it off \
             with --revoke-issuer"
        )));
    }
    let mut draft = Draft::default();
    if !alive {
        draft.compare(Key::Alive(name.clone()), 0);
    }
    draft.delete(Key::Controller(name.clone()), found.modified);
    let issuers: Vec<_> =
        state.issuers.iter().filter(|(_, issuer)| issuer.record.controller == *name).collect();
    for (spki, issuer) in &issuers {
        draft.compare(Key::Issuer(**spki), issuer.modified);
        if issuer.record.signs {
            let record = IssuerRecord { signs: false, ..issuer.record.clone() };
            draft.put(Key::Issuer(**spki), &record);
        }
    }
    let mut mesh = state.mesh.record.clone();
    mesh.controllers = registration::addresses(state, name, &[]);
    if revoke_issuer {
        let mut issuers: BTreeSet<Fingerprint> = issuers.iter().map(|(spki, _)| **spki).collect();
        issuers.insert(issuer(name, &found.record)?.0);
        for issuer in &issuers {
            cert::distrust(&mut mesh, *issuer)?;
        }
        draft.warnings = cert::cut_off_by_distrust(state, &issuers, now);
    }
    draft.bump_mesh(&state.mesh, mesh);
    for (serial, cert) in state.valid_certs(&state.controller_id(name), now) {
        draft.deny(state, serial, cert, now, "the controller was removed");
    }
    Ok(draft)
}

fn find<'a>(state: &'a State, name: &Label) -> Result<&'a Stored<ControllerRecord>, CallError> {
    state
        .controllers
        .get(name)
        .ok_or_else(|| check::not_found("controller", name.as_str(), "", state.controllers.keys()))
}

fn row(
    state: &State,
    (name, found): (&Label, &Stored<ControllerRecord>),
) -> Result<RegistrationRow, CallError> {
    let record = &found.record;
    let (issuer, issuer_expires) = issuer(name, record)?;
    let running = state.alive.get(name).map(|alive| Running {
        software: alive.record.software.clone(),
        since: alive.record.started,
    });
    Ok(RegistrationRow {
        name: name.clone(),
        addresses: record.addresses.clone(),
        added: record.added,
        issuer,
        issuer_expires,
        running,
    })
}

fn issuer(name: &Label, record: &ControllerRecord) -> Result<(Fingerprint, u64), CallError> {
    registration::issuer(record).map_err(|error| {
        CallError::new(
            ErrorCode::Internal,
            format!("the registration of controller {name}: {error}"),
        )
    })
}
