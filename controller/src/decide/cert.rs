//! Certificates of edges, and revoking any certificate or issuing CA. Pure, apart from signing.

use std::collections::BTreeSet;

use cframe_pki::{
    Fingerprint, Serial,
    identity::{Label, Role},
    issue::VerifiedCsr,
    verifier::PeerIdentity,
};
use cframe_protocol::v1::{CallError, CertRow, CertState, Enrolled, ErrorCode, Reply};

use crate::{
    decide::{
        ca,
        check::{self, conflict},
        draft::Draft,
        edge,
    },
    keys::issuer::{Issued, Issuer},
    model::{
        State, Stored,
        membership::Membership,
        record::{CertRecord, EdgeRecord, Key, MeshRecord},
        trust::current_certs,
    },
};

/// Issues a certificate to an edge that has no valid one.
pub(crate) fn enroll(
    state: &State,
    issuer: &Issuer,
    namespace: &Label,
    name: &Label,
    csr: &VerifiedCsr,
    now: u64,
) -> Result<(Draft, Enrolled), CallError> {
    let space = check::namespace(state, namespace)?;
    let stored = edge::find(space, namespace, name)?;
    let id = state.edge_id(namespace, name);
    if let Some((serial, _)) = state.valid_certs(&id, now).next() {
        return Err(conflict(format!(
            "edge {name} of namespace {namespace} has the certificate {serial}; revoke it first \
             (`cfctl cert revoke {serial}`)"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    edge::record_joined(&mut draft, (namespace, space), name, stored);
    let mut issued = issuer.issue(state, csr, &id, now)?;
    issued.record.bundle = Some(state.mesh.record.revision);
    draft.put_cert(&issued);
    let enrolled = enrolled(state, issuer, namespace, name, &issued)?;
    Ok((draft, enrolled))
}

/// What an edge gets together with its certificate.
pub(crate) fn enrolled(
    state: &State,
    issuer: &Issuer,
    namespace: &Label,
    name: &Label,
    issued: &Issued,
) -> Result<Enrolled, CallError> {
    let space = check::namespace(state, namespace)?;
    let edge = &edge::find(space, namespace, name)?.record;
    let mesh = &state.mesh.record;
    Ok(Enrolled {
        mesh: mesh.name.clone(),
        namespace: namespace.clone(),
        edge: name.clone(),
        chain: issuer.wire_chain(&issued.certificate),
        trust: mesh.trust.clone(),
        controllers: mesh.controllers.iter().cloned().collect(),
        settings: space.record.settings,
        listen_port: edge
            .endpoints
            .first()
            .map_or(cframe_protocol::LINK_PORT, |endpoint| endpoint.port()),
        site_prefixes: edge.cidrs.clone(),
    })
}

/// The certificates at the two ends of a call's connection, which the call may not revoke.
pub(crate) struct Own {
    pub(crate) caller: Serial,
    pub(crate) serving: Serial,
}

pub(crate) fn revoke(
    state: &State,
    serial: Serial,
    reason: &str,
    own: &Own,
    now: u64,
) -> Result<Draft, CallError> {
    check::description(reason)?;
    let cert = &find(state, serial)?.record;
    if let Some(denied) = state.denied.get(&serial) {
        let at = denied.record.at;
        return Err(conflict(format!(
            "certificate {serial} was revoked already, at {at} (Unix seconds)"
        )));
    }
    if serial == own.serving {
        return Err(conflict(
            "this is the certificate of the controller that you are connected to, and without it no edge would accept \
             the revocation; connect to another controller, or if its keys are stolen, make a new mesh",
        ));
    }
    if serial == own.caller {
        return Err(conflict(
            "this is the certificate that you are using; revoke it as another admin",
        ));
    }
    let mut draft = match &cert.id.role {
        Role::Edge { namespace, .. } => match state.namespaces.get(namespace) {
            Some(space) => Draft::within(namespace, space),
            None => Draft::default(),
        },
        Role::Controller { .. } | Role::Admin { .. } => Draft::default(),
    };
    if cert.not_after <= now {
        draft
            .warnings
            .push(format!("certificate {serial} has expired; there was nothing to revoke"));
        return Ok(draft);
    }
    compare_holder(&mut draft, state, &cert.id.role);
    draft.deny(state, serial, cert, now, reason);
    record_revoked(&mut draft, state, (serial, cert), now);
    let others: Vec<String> = state
        .valid_certs(&cert.id, now)
        .filter(|(other, _)| *other != serial)
        .map(|(other, _)| other.to_string())
        .collect();
    if !others.is_empty() {
        draft.warnings.push(format!(
            "{} has other certificates, which stay valid: {}; revoke them too if the host is not \
             trusted",
            cert.id,
            others.join(", ")
        ));
    }
    Ok(draft)
}

/// Records that an edge is revoked, if this is its last valid certificate.
fn record_revoked(
    draft: &mut Draft,
    state: &State,
    (serial, cert): (Serial, &CertRecord),
    now: u64,
) {
    let Role::Edge { namespace, name } = &cert.id.role else { return };
    let space = state.namespaces.get(namespace);
    let Some(edge) = space.and_then(|space| space.edges.get(name)) else { return };
    if state.valid_certs(&cert.id, now).all(|(other, _)| other == serial) {
        let key = Key::Edge(namespace.clone(), name.clone());
        let membership = Some(Membership::Revoked);
        draft.put(key, &EdgeRecord { membership, ..edge.record.clone() });
    }
}

/// Compares the holder's record: if the holder gets another certificate meanwhile, this is decided again.
fn compare_holder(draft: &mut Draft, state: &State, holder: &Role) {
    let key = match holder {
        Role::Edge { namespace, name } => Key::Edge(namespace.clone(), name.clone()),
        Role::Controller { name } => Key::Controller(name.clone()),
        Role::Admin { name } => Key::Admin(name.clone()),
    };
    let modified = match holder {
        Role::Edge { namespace, name } => {
            let space = state.namespaces.get(namespace);
            space.and_then(|space| space.edges.get(name)).map(|edge| edge.modified)
        }
        Role::Controller { name } => state.controllers.get(name).map(|found| found.modified),
        Role::Admin { name } => state.admins.get(name).map(|admin| admin.modified),
    };
    draft.compare(key, modified.unwrap_or(0));
}

pub(crate) fn find(state: &State, serial: Serial) -> Result<&Stored<CertRecord>, CallError> {
    state.certs.get(&serial).ok_or_else(|| {
        CallError::new(
            ErrorCode::NotFound,
            format!("no certificate {serial}; `cfctl cert list` shows all certificates"),
        )
    })
}

/// All certificates, or those of a namespace, which may have been removed.
pub(crate) fn list(state: &State, namespace: Option<&Label>, now: u64) -> Reply {
    let is_wanted =
        |cert: &CertRecord| namespace.is_none() || cert.id.role.namespace() == namespace;
    let certs = state.certs.iter().filter(|(_, cert)| is_wanted(&cert.record));
    Reply::Certs(certs.map(|(serial, cert)| row(state, *serial, &cert.record, now)).collect())
}

pub(crate) fn show(state: &State, serial: Serial, now: u64) -> Result<Reply, CallError> {
    let cert = find(state, serial)?;
    Ok(Reply::Certs(vec![row(state, serial, &cert.record, now)]))
}

fn row(state: &State, serial: Serial, cert: &CertRecord, now: u64) -> CertRow {
    let state = match state.denied.get(&serial) {
        Some(denied) => {
            CertState::Revoked { at: denied.record.at, reason: denied.record.reason.clone() }
        }
        None if cert.not_after <= now => CertState::Expired,
        None => CertState::Valid,
    };
    CertRow {
        serial,
        id: cert.id.clone(),
        spki: cert.spki,
        not_before: cert.not_before,
        not_after: cert.not_after,
        state,
    }
}

/// The roots and all revoked issuing CAs go to each edge as one change, which must fit into one frame.
const MAX_REVOKED_ISSUERS: usize = 256;

pub(crate) fn revoke_issuer(
    state: &State,
    fingerprint: Fingerprint,
    own: Fingerprint,
    caller: &PeerIdentity,
    now: u64,
) -> Result<Draft, CallError> {
    if fingerprint == own {
        return Err(conflict(
            "this is the CA of the controller that you are connected to; connect to another controller, or give \
             this one a new CA first (`cframe-controller ca renew` on its host)",
        ));
    }
    if caller.issuer == Some(fingerprint) {
        return Err(conflict(
            "the certificate that you are using is by that CA; renew it first (`cfctl ca rotate renew`)",
        ));
    }
    let mut mesh = state.mesh.record.clone();
    let mut draft = Draft::default();
    if distrust(&mut mesh, fingerprint)? {
        draft.bump_mesh(&state.mesh, mesh);
        draft.warnings = cut_off_by_distrust(state, &BTreeSet::from([fingerprint]), now);
    }
    Ok(draft)
}

/// Warnings about those who are cut off when issuing CAs are distrusted, a sentence each.
pub(crate) fn cut_off_by_distrust(
    state: &State,
    issuers: &BTreeSet<Fingerprint>,
    now: u64,
) -> Vec<String> {
    let is_below = |issuer: Fingerprint| issuers.contains(&issuer);
    let below: Vec<_> =
        current_certs(state, now).filter(|cert| cert.issuer.is_some_and(is_below)).collect();
    ca::cut_off(&below)
}

/// Adds an issuing CA to the distrusted ones; false if it was distrusted already.
pub(crate) fn distrust(mesh: &mut MeshRecord, issuer: Fingerprint) -> Result<bool, CallError> {
    let revoked = &mut mesh.trust.revoked_issuers;
    if revoked.len() >= MAX_REVOKED_ISSUERS && !revoked.contains(&issuer) {
        return Err(conflict(format!(
            "{MAX_REVOKED_ISSUERS} issuing CAs are revoked, which is the maximum; make a new mesh"
        )));
    }
    Ok(revoked.insert(issuer))
}

/// Issues a certificate that an edge requests over its session.
pub(crate) fn renew(
    state: &State,
    issuer: &Issuer,
    (namespace, name): (&Label, &Label),
    current: Serial,
    csr: &VerifiedCsr,
    now: u64,
) -> Result<(Draft, Enrolled), CallError> {
    /// Valid certificates of one edge: an edge that renews in a loop must not fill the store.
    const MAX_VALID: usize = 8;
    let space = check::namespace(state, namespace)?;
    let stored = edge::find(space, namespace, name)?;
    if state.denied.contains_key(&current) {
        return Err(CallError::new(ErrorCode::NotAllowed, "the certificate was revoked"));
    }
    let id = state.edge_id(namespace, name);
    if state.valid_certs(&id, now).count() >= MAX_VALID {
        return Err(conflict(format!(
            "edge {name} has {MAX_VALID} valid certificates, which is the maximum; revoke those that it does not use: `cfctl cert \
             list -n {namespace}`, `cfctl cert revoke`"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    edge::record_joined(&mut draft, (namespace, space), name, stored);
    let mut issued = issuer.issue(state, csr, &id, now)?;
    issued.record.renews = Some(current);
    draft.put_cert(&issued);
    let enrolled = enrolled(state, issuer, namespace, name, &issued)?;
    Ok((draft, enrolled))
}
