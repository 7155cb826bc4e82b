//! Admins. Pure, apart from signing.

use cframe_pki::{
    identity::{Label, SpiffeId},
    issue::VerifiedCsr,
};
use cframe_protocol::v1::{AdminEnrolled, AdminRow, CallError, Reply};

use crate::{
    decide::{
        check::{self, conflict},
        draft::Draft,
        names::natural,
    },
    keys::issuer::Issuer,
    model::{
        State, Stored,
        record::{AdminRecord, Key},
    },
};

/// Valid certificates of one admin: an admin that renews in a loop must not fill the store.
const MAX_VALID: usize = 8;

/// Adds an admin; for the caller's own name, issues a new certificate.
pub(crate) fn add(
    state: &State,
    issuer: &Issuer,
    (name, read_only): (&Label, bool),
    csr: &VerifiedCsr,
    caller: &Label,
    now: u64,
) -> Result<(Draft, AdminEnrolled), CallError> {
    let mut draft = Draft::default();
    let key = Key::Admin(name.clone());
    let read_only = match state.admins.get(name) {
        None => {
            draft.compare(key.clone(), 0);
            draft.put(key, &AdminRecord { read_only });
            read_only
        }
        Some(admin) if name == caller => {
            if state.valid_certs(&id(state, name), now).count() >= MAX_VALID {
                return Err(conflict(format!(
                    "admin {name} has {MAX_VALID} valid certificates, which is the maximum; revoke those that are not \
                     needed: `cfctl cert list`, `cfctl cert revoke`"
                )));
            }
            draft.rewrite(key, admin);
            admin.record.read_only
        }
        Some(_) => {
            return Err(conflict(format!(
                "admin {name} exists already; an admin renews its own certificate, or is removed and \
                 added again"
            )));
        }
    };
    let issued = issuer.issue(state, csr, &id(state, name), now)?;
    draft.put_cert(&issued);
    let mesh = &state.mesh.record;
    let enrolled = AdminEnrolled {
        mesh: mesh.name.clone(),
        name: name.clone(),
        read_only,
        chain: issuer.wire_chain(&issued.certificate),
        trust: mesh.trust.clone(),
        controllers: mesh.controllers.iter().cloned().collect(),
    };
    Ok((draft, enrolled))
}

pub(crate) fn delete(
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
    draft.delete(Key::Admin(name.clone()), admin.modified);
    for (serial, cert) in state.valid_certs(&id(state, name), now) {
        draft.deny(state, serial, cert, now, "the admin was removed");
    }
    Ok(draft)
}

pub(crate) fn list(state: &State, now: u64) -> Reply {
    let rows = state.admins.iter().map(|admin| row(state, admin, now));
    let mut rows: Vec<AdminRow> = rows.collect();
    rows.sort_by(|one, other| natural(&one.name, &other.name));
    Reply::Admins(rows)
}

fn row(state: &State, (name, admin): (&Label, &Stored<AdminRecord>), now: u64) -> AdminRow {
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
