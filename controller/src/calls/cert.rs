//! Certificates: pure decisions, apart from the signature.

use std::collections::BTreeSet;

use cframe_pki::{
    Fingerprint, Serial,
    identity::{Label, Role},
    issue::VerifiedCsr,
    verifier::PeerIdentity,
};
use cframe_protocol::v1::{CallError, CertRow, CertState, Enrolled, ErrorCode};

use super::ca;
use crate::{
    check::{self, conflict},
    draft::Draft,
    issuing::{self, Issued, Issuer},
    model::{State, Stored},
    record::{self, Key},
};

/// Where edges listen if no endpoint says otherwise.
const LINK_PORT: u16 = cframe_protocol::LINK_PORT;

/// A certificate for an edge that has no valid one.
pub(super) fn enroll(
    state: &State,
    issuer: &Issuer,
    namespace: &Label,
    name: &Label,
    csr: &VerifiedCsr,
    now: u64,
) -> Result<(Draft, Enrolled), CallError> {
    let space = check::namespace(state, namespace)?;
    let edge = super::edge::find(space, namespace, name)?;
    let id = state.edge_id(namespace, name);
    if let Some((serial, _)) = state.valid_certs(&id, now).next() {
        return Err(conflict(format!(
            "edge {name} of namespace {namespace} has the certificate {serial}; revoke it first \
             (`cfctl cert revoke {serial}`)"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    draft.rewrite(Key::Edge(namespace.clone(), name.clone()), edge);
    let mut issued = issuer.issue(state, csr, &id, now)?;
    issued.record.bundle = Some(state.mesh.record.revision);
    issued.record(&mut draft);
    let enrolled = enrolled(state, issuer, namespace, name, &issued)?;
    Ok((draft, enrolled))
}

/// What an edge gets with its certificate.
pub(crate) fn enrolled(
    state: &State,
    issuer: &Issuer,
    namespace: &Label,
    name: &Label,
    issued: &Issued,
) -> Result<Enrolled, CallError> {
    let space = check::namespace(state, namespace)?;
    let edge = &super::edge::find(space, namespace, name)?.record;
    let mesh = &state.mesh.record;
    Ok(Enrolled {
        mesh: mesh.name.clone(),
        namespace: namespace.clone(),
        edge: name.clone(),
        chain: issuer.wire_chain(&issued.certificate),
        trust: issuing::bundle(state),
        controllers: mesh.controllers.iter().cloned().collect(),
        settings: space.record.settings,
        listen_port: edge.endpoints.first().map_or(LINK_PORT, |endpoint| endpoint.port()),
        site_prefixes: edge.cidrs.clone(),
    })
}

/// The certificates of a call's two ends, which it may not revoke.
pub(super) struct Own {
    pub(super) caller: Serial,
    pub(super) serving: Serial,
}

pub(super) fn revoke(
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
            "this is the certificate of the controller that you are talking to, and without it no edge would \
             take anything from it again; ask another controller, or if its keys are stolen, make a new mesh",
        ));
    }
    if serial == own.caller {
        return Err(conflict(
            "this is the certificate that you are calling with; revoke it as another admin",
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
            .push(format!("certificate {serial} has expired; nothing was left to revoke"));
        return Ok(draft);
    }
    compare_holder(&mut draft, state, &cert.id.role);
    draft.deny(state, serial, cert, now, reason);
    let others: Vec<String> = state
        .valid_certs(&cert.id, now)
        .filter(|(other, _)| *other != serial)
        .map(|(other, _)| other.to_string())
        .collect();
    if !others.is_empty() {
        draft.warnings.push(format!(
            "{} has other certificates, which stay valid: {}; revoke them too if the host is not to be \
             trusted",
            cert.id,
            others.join(", ")
        ));
    }
    Ok(draft)
}

/// Has a certificate that the holder gets meanwhile change the decision.
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

/// The certificate, or a refusal.
pub(super) fn find(state: &State, serial: Serial) -> Result<&Stored<record::Cert>, CallError> {
    state.certs.get(&serial).ok_or_else(|| {
        CallError::new(
            ErrorCode::NotFound,
            format!("no certificate {serial}; `cfctl cert list` shows all that there are"),
        )
    })
}

pub(super) fn row(state: &State, serial: Serial, cert: &record::Cert, now: u64) -> CertRow {
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

/// Revoked CAs at most: with the roots they are one change, which has to fit a frame to every edge.
const MAX_REVOKED_ISSUERS: usize = 256;

/// Distrusts an issuing CA.
pub(super) fn revoke_issuer(
    state: &State,
    fingerprint: Fingerprint,
    own: Fingerprint,
    caller: &PeerIdentity,
    now: u64,
) -> Result<Draft, CallError> {
    if fingerprint == own {
        return Err(conflict(
            "this is the CA of the controller that you are talking to; ask another controller, or give this \
             one a new CA first (`cframe-controller ca renew` on its host)",
        ));
    }
    if caller.issuer == Some(fingerprint) {
        return Err(conflict(
            "the certificate that you are calling with is by that CA; renew it first (`cfctl ca rotate renew`)",
        ));
    }
    let mut mesh = state.mesh.record.clone();
    let mut draft = Draft::default();
    if distrust(&mut mesh, fingerprint)? {
        draft.bump_mesh(&state.mesh, mesh);
        draft.warnings = cut_off_below(state, &BTreeSet::from([fingerprint]), now);
    }
    Ok(draft)
}

/// Whom distrusting issuing CAs cuts off, a sentence each.
pub(super) fn cut_off_below(
    state: &State,
    issuers: &BTreeSet<Fingerprint>,
    now: u64,
) -> Vec<String> {
    let is_below = |issuer: Fingerprint| issuers.contains(&issuer);
    let below: Vec<_> =
        ca::holdings(state, now).filter(|of| of.issuer.is_some_and(is_below)).collect();
    ca::cut_off(&below)
}

/// Puts an issuing CA among those that are cut off; false if it was there.
pub(super) fn distrust(mesh: &mut record::Mesh, issuer: Fingerprint) -> Result<bool, CallError> {
    let revoked = &mut mesh.trust.revoked_issuers;
    if revoked.len() >= MAX_REVOKED_ISSUERS && !revoked.contains(&issuer) {
        return Err(conflict(format!(
            "{MAX_REVOKED_ISSUERS} issuing CAs are revoked, the most there can be; make a new mesh"
        )));
    }
    Ok(revoked.insert(issuer))
}

/// Whether a certificate belongs to a namespace's edges; all do to none.
pub(super) fn is_of(cert: &record::Cert, namespace: Option<&Label>) -> bool {
    namespace.is_none() || cert.id.role.namespace() == namespace
}

/// The record of a certificate that an edge asks for over its session.
pub(crate) fn renew(
    state: &State,
    issuer: &Issuer,
    (namespace, name): (&Label, &Label),
    current: Serial,
    csr: &VerifiedCsr,
    now: u64,
) -> Result<(Draft, Enrolled), CallError> {
    /// Unexpired certificates of one edge, so that one that renews in a loop fills no store.
    const MOST: usize = 8;
    let space = check::namespace(state, namespace)?;
    let edge = super::edge::find(space, namespace, name)?;
    if state.denied.contains_key(&current) {
        return Err(CallError::new(ErrorCode::NotAllowed, "the certificate was revoked"));
    }
    let id = state.edge_id(namespace, name);
    if state.valid_certs(&id, now).count() >= MOST {
        return Err(conflict(format!(
            "edge {name} has {MOST} valid certificates; that is enough: `cfctl cert list -n {namespace}` \
             shows them, `cfctl cert revoke` ends those that it does not use"
        )));
    }
    let mut draft = Draft::within(namespace, space);
    draft.rewrite(Key::Edge(namespace.clone(), name.clone()), edge);
    let mut issued = issuer.issue(state, csr, &id, now)?;
    issued.record.renews = Some(current);
    issued.record(&mut draft);
    let enrolled = enrolled(state, issuer, namespace, name, &issued)?;
    Ok((draft, enrolled))
}
