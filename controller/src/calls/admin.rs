//! Admins: pure decisions, apart from the signature.

use cframe_pki::{
    identity::{Label, SpiffeId},
    issue::VerifiedCsr,
};
use cframe_protocol::v1::{AdminEnrolled, AdminRow, CallError};

use crate::{
    check::{self, conflict},
    draft::Draft,
    issuing::{self, Issuer},
    model::{State, Stored},
    record::{self, Key},
};

/// Unexpired certificates of one admin, so that one that renews in a loop fills no store.
const MOST: usize = 8;

/// A new admin, or, for the caller's own name, a new certificate.
pub(super) fn add(
    state: &State,
    issuer: &Issuer,
    name: &Label,
    read_only: bool,
    csr: &VerifiedCsr,
    caller: &Label,
    now: u64,
) -> Result<(Draft, AdminEnrolled), CallError> {
    let mut draft = Draft::default();
    let key = Key::Admin(name.clone());
    let read_only = match state.admins.get(name) {
        None => {
            draft.compare(key.clone(), 0);
            draft.put(key, &record::Admin { read_only });
            read_only
        }
        Some(admin) if name == caller => {
            if state.valid_certs(&id(state, name), now).count() >= MOST {
                return Err(conflict(format!(
                    "admin {name} has {MOST} valid certificates; that is enough: `cfctl cert list` shows \
                     them, `cfctl cert revoke` ends those that nobody needs"
                )));
            }
            draft.rewrite(key, admin);
            admin.record.read_only
        }
        Some(_) => {
            return Err(conflict(format!(
                "admin {name} is there already; admins renew their own certificates, or are removed \
                 and added again"
            )));
        }
    };
    let issued = issuer.issue(state, csr, &id(state, name), now)?;
    issued.record(&mut draft);
    let mesh = &state.mesh.record;
    let enrolled = AdminEnrolled {
        mesh: mesh.name.clone(),
        name: name.clone(),
        read_only,
        chain: issuer.wire_chain(&issued.certificate),
        trust: issuing::bundle(state),
        controllers: mesh.controllers.iter().cloned().collect(),
    };
    Ok((draft, enrolled))
}

pub(super) fn delete(
    state: &State,
    name: &Label,
    caller: &Label,
    now: u64,
) -> Result<Draft, CallError> {
    let Some(admin) = state.admins.get(name) else {
        return Err(check::not_found("admin", name.as_str(), "", state.admins.keys()));
    };
    if name == caller {
        return Err(conflict("this is you; have another admin remove you"));
    }
    let mut draft = Draft::default();
    draft.remove(Key::Admin(name.clone()), admin.modified);
    for (serial, cert) in state.valid_certs(&id(state, name), now) {
        draft.deny(state, serial, cert, now, "the admin was removed");
    }
    Ok(draft)
}

pub(super) fn row(
    state: &State,
    (name, admin): (&Label, &Stored<record::Admin>),
    now: u64,
) -> AdminRow {
    let certs = state.valid_certs(&id(state, name), now);
    AdminRow {
        name: name.clone(),
        read_only: admin.record.read_only,
        not_after: certs.map(|(_, cert)| cert.not_after).max().unwrap_or(0),
    }
}

fn id(state: &State, name: &Label) -> SpiffeId {
    SpiffeId::admin(state.mesh.record.name.clone(), name.clone())
}
