//! Roots and issuing CAs: their status, and the trust bundle's part of a rotation.

use std::collections::BTreeMap;

use cframe_pki::{
    CertificateDer, Fingerprint, identity::Role, issue::CaCertificate, verifier::PeerIdentity,
};
use cframe_protocol::v1::{
    CaStatus, CallError, CertCounts, ErrorCode, HolderRow, IssuerRow, RootRow,
};

use super::{
    check::{conflict, invalid},
    draft::Draft,
    names::{list_lacking, list_names},
    wire_count,
};
use crate::{
    model::{
        State,
        trust::{
            CurrentCert, current_certs, edges_lacking_roots, issuer_of, roots, signing_issuers,
            signing_roots,
        },
    },
    sessions::all::AllSessions,
};

mod next_step;

pub(crate) fn status(state: &State, sessions: &AllSessions<'_>, now: u64) -> CaStatus {
    let mut of_root: BTreeMap<Fingerprint, CertCounts> = BTreeMap::new();
    let mut of_issuer: BTreeMap<Fingerprint, CertCounts> = BTreeMap::new();
    for current in current_certs(state, now) {
        for counts in [
            current.root.map(|root| of_root.entry(root).or_default()),
            current.issuer.map(|issuer| of_issuer.entry(issuer).or_default()),
        ]
        .into_iter()
        .flatten()
        {
            *match current.cert.id.role {
                Role::Edge { .. } => &mut counts.edges,
                Role::Controller { .. } => &mut counts.controllers,
                Role::Admin { .. } => &mut counts.admins,
            } += 1;
        }
    }
    for (serial, cert) in &state.certs {
        if cert.record.not_after <= now || state.denied.contains_key(serial) {
            continue;
        }
        let Some(issuer) = issuer_of(state, &cert.record) else { continue };
        of_issuer.entry(issuer).or_default().valid += 1;
        if let Some(known) = state.issuers.get(&issuer) {
            of_root.entry(known.record.root).or_default().valid += 1;
        }
    }
    let counts = |of: &BTreeMap<_, CertCounts>, spki| of.get(&spki).copied().unwrap_or_default();
    let roots = roots(state).into_iter().map(|root| {
        let (edges, mut lacking) = edges_lacking_roots(state, sessions, &[root.spki], now);
        let have = edges - lacking.len();
        lacking.truncate(CaStatus::MAX_LACKING);
        RootRow {
            fingerprint: root.spki,
            signs: signing_roots(state).contains(&root.spki),
            revision: state.mesh.record.roots_since.get(&root.spki).copied().unwrap_or(0),
            have: wire_count(have),
            edges: wire_count(edges),
            lacking,
            certs: counts(&of_root, root.spki),
            subject: root.subject,
            not_after: root.not_after,
            certificate: root.der.to_vec(),
        }
    });
    let revoked = &state.mesh.record.trust.revoked_issuers;
    let issuers = state.issuers.iter().filter(|(_, issuer)| issuer.record.not_after > now);
    let issuers = issuers.map(|(spki, issuer)| IssuerRow {
        fingerprint: *spki,
        controller: issuer.record.controller.clone(),
        root: issuer.record.root,
        not_after: issuer.record.not_after,
        signs: issuer.record.signs,
        revoked: revoked.contains(spki),
        certs: counts(&of_issuer, *spki),
    });
    let mut status =
        CaStatus { roots: roots.collect(), issuers: issuers.collect(), next: String::new() };
    status.next = next_step::next_step(state, &status, now);
    status
}

/// The holders whose newest certificate is under a root or an issuing CA.
pub(crate) fn holders(
    state: &State,
    sessions: &AllSessions<'_>,
    ca: Fingerprint,
    now: u64,
) -> Vec<HolderRow> {
    let below = current_certs(state, now)
        .filter(|current| current.issuer == Some(ca) || current.root == Some(ca));
    let online = |role: &Role| match role {
        Role::Edge { namespace, name } => sessions.applied(namespace, name).0,
        Role::Controller { .. } | Role::Admin { .. } => false,
    };
    below
        .map(|CurrentCert { serial, cert, .. }| HolderRow {
            id: cert.id.clone(),
            serial,
            not_after: cert.not_after,
            online: online(&cert.id.role),
        })
        .collect()
}

pub(crate) fn add_root(state: &State, der: &[u8], now: u64) -> Result<Draft, CallError> {
    let der = CertificateDer::from(der.to_vec());
    let root = CaCertificate::root(&der).map_err(|error| invalid(error.to_string()))?;
    let mut mesh = state.mesh.record.clone();
    if root.mesh != mesh.name {
        return Err(invalid(format!(
            "this is a root of mesh {}, and this mesh is {}; make one with `cframe-controller ca \
             new-root --mesh {}`",
            root.mesh, mesh.name, mesh.name
        )));
    }
    if !(root.not_before..=root.not_after).contains(&now) {
        return Err(invalid(format!(
            "the root is valid from {} to {}, and by the controller's clock it is {now} (Unix seconds); make a new root",
            root.not_before, root.not_after
        )));
    }
    if roots(state).iter().any(|known| known.spki == root.spki) {
        return Err(conflict(format!("the root {} is in the trust bundle already", root.spki)));
    }
    if mesh.trust.roots.len() >= CaStatus::MAX_ROOTS {
        return Err(conflict(format!(
            "the trust bundle has {} roots, which is the maximum; drop one first (`cfctl ca status`)",
            CaStatus::MAX_ROOTS
        )));
    }
    let mut draft = Draft::default();
    mesh.trust.roots.push(der);
    mesh.roots_since.insert(root.spki, mesh.revision + 1);
    draft.bump_mesh(&state.mesh, mesh);
    Ok(draft)
}

/// The two ends of the connection of a call that drops a root.
pub(crate) struct Ends<'a> {
    /// The caller's certificate.
    pub(crate) caller: &'a PeerIdentity,
    /// The root that the controller signs under.
    pub(crate) own: Fingerprint,
}

pub(crate) fn drop_root(
    state: &State,
    sessions: &AllSessions<'_>,
    root: Fingerprint,
    ends: &Ends<'_>,
    force: bool,
    now: u64,
) -> Result<Draft, CallError> {
    let known = roots(state);
    if !known.iter().any(|known| known.spki == root) {
        let there: Vec<String> = known.iter().map(|root| root.spki.to_string()).collect();
        return Err(CallError::new(
            ErrorCode::NotFound,
            format!("no root {root} in the trust bundle; it has {}", there.join(" and ")),
        ));
    }
    let rest: Vec<Fingerprint> =
        known.iter().map(|known| known.spki).filter(|spki| *spki != root).collect();
    if rest.is_empty() {
        return Err(conflict(
            "it is the only root, and without a root nobody trusts anybody; add another first (`cfctl ca \
             rotate add`)",
        ));
    }
    if ends.own == root {
        return Err(conflict(
            "the controller that you are connected to signs under it; give it a CA under another root first \
             (`cframe-controller ca renew` on its host)",
        ));
    }
    let callers = ends.caller.issuer.and_then(|issuer| state.issuers.get(&issuer));
    if callers.is_some_and(|issuer| issuer.record.root == root) {
        return Err(conflict(
            "the certificate that you are using is under it; renew it first (`cfctl ca rotate renew`)",
        ));
    }
    let obstacles = obstacles(state, sessions, root, &rest, now);
    if !obstacles.is_empty() && !force {
        let mut error = conflict(obstacles.join("; "));
        error.hint = Some(
            "`cfctl ca status` has the next step; --yes drops it anyway and cuts these off"
                .to_owned(),
        );
        return Err(error);
    }
    let mut mesh = state.mesh.record.clone();
    mesh.trust.roots.retain(|der| CaCertificate::root(der).map(|found| found.spki) != Ok(root));
    mesh.roots_since.remove(&root);
    let mut draft = Draft::default();
    draft.bump_mesh(&state.mesh, mesh);
    draft.warnings = obstacles;
    Ok(draft)
}

/// Who would be cut off without a root, a sentence each.
fn obstacles(
    state: &State,
    sessions: &AllSessions<'_>,
    root: Fingerprint,
    rest: &[Fingerprint],
    now: u64,
) -> Vec<String> {
    let mut found = Vec::new();
    let signing = signing_issuers(state).filter(|ca| ca.root == root);
    let signing: Vec<String> = signing.map(|ca| ca.controller.to_string()).collect();
    if !signing.is_empty() {
        found.push(format!("controllers sign under it: {}", signing.join(", ")));
    }
    let revoked = &state.mesh.record.trust.revoked_issuers;
    let is_revoked = |issuer: Fingerprint| revoked.contains(&issuer);
    let below: Vec<CurrentCert<'_>> = current_certs(state, now)
        .filter(|cert| cert.root == Some(root) && !cert.issuer.is_some_and(is_revoked))
        .collect();
    found.extend(cut_off(&below));
    let (_, lacking) = edges_lacking_roots(state, sessions, rest, now);
    if !lacking.is_empty() {
        found.push(format!(
            "{} edges are not known to have another root, and would trust nobody: {}",
            lacking.len(),
            list_lacking(&lacking)
        ));
    }
    found
}

/// Who is cut off with these certificates, a sentence for each kind of holder.
pub(crate) fn cut_off(below: &[CurrentCert<'_>]) -> Vec<String> {
    let of = |kind: &str| -> Vec<String> {
        let found = below.iter().filter(|of| of.cert.id.role.kind() == kind);
        let name = |role: &Role| match role.namespace() {
            Some(namespace) => format!("{namespace}/{}", role.name()),
            None => role.name().to_string(),
        };
        found.map(|of| name(&of.cert.id.role)).collect()
    };
    let mut found = Vec::new();
    for (kind, loss) in [
        ("edge", "cut off, and must join again with `cfctl token create --rejoin`"),
        ("controller", "cut off, until its certificate is renewed"),
        (
            "admin",
            "cut off, until `cframe-controller admin` on a controller's host issues a new certificate",
        ),
    ] {
        let names = of(kind);
        if !names.is_empty() {
            let plural = if names.len() == 1 { "" } else { "s" };
            let count = names.len();
            found.push(format!("{count} {kind}{plural} {loss}: {}", list_names(names)));
        }
    }
    found
}
