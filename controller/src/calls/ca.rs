//! The CAs: what hangs on each, and the steps of a rotation that are the trust bundle's. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cframe_pki::{
    Fingerprint, Serial, identity::Role, issue::CaCertificate, verifier::PeerIdentity,
};
use cframe_protocol::v1::{
    CaStatus, CallError, CertCounts, ErrorCode, HolderRow, IssuerRow, Lacking, RootRow,
};

use super::{Sightings, count};
use crate::{
    check::{conflict, invalid},
    draft::Draft,
    model::State,
    record,
};

mod next;

/// A participant's newest certificate that is neither expired nor denied.
pub(crate) struct Holding<'a> {
    pub(crate) serial: Serial,
    pub(crate) cert: &'a record::Cert,
    /// Its issuing CA; unknown after one that was never announced.
    pub(crate) issuer: Option<Fingerprint>,
    /// The root above that.
    pub(crate) root: Option<Fingerprint>,
}

/// Of each participant, what it has now: of two of the same second the one that was recorded later.
pub(crate) fn holdings(state: &State, now: u64) -> impl Iterator<Item = Holding<'_>> {
    let recorded = |serial: &Serial| state.certs.get(serial).map(|cert| cert.modified);
    let newest = state.certs_of.keys().filter_map(move |id| {
        let valid = state.valid_certs(id, now);
        valid.max_by_key(|(serial, cert)| (cert.not_before, recorded(serial)))
    });
    newest.map(|(serial, cert)| {
        let issuer = issuer_of(state, cert);
        let root = issuer.and_then(|issuer| Some(state.issuers.get(&issuer)?.record.root));
        Holding { serial, cert, issuer, root }
    })
}

/// Records that name no issuing CA are older than any mesh's second one.
fn issuer_of(state: &State, cert: &record::Cert) -> Option<Fingerprint> {
    cert.issuer.or_else(|| {
        let first = state.issuers.iter().min_by_key(|(_, issuer)| issuer.record.added);
        first.map(|(spki, _)| *spki)
    })
}

/// From which revision of the mesh on an edge has one of these roots.
fn since(state: &State, roots: &[Fingerprint]) -> Option<u64> {
    let mesh = &state.mesh.record;
    // The first root of a mesh is in every bundle that was ever given out.
    roots.iter().map(|root| mesh.roots_since.get(root).copied().unwrap_or(0)).min()
}

/// How many edges have a certificate, and those of them that are not known to have one of these roots.
pub(crate) fn lacking(
    state: &State,
    sessions: &Sightings<'_>,
    roots: &[Fingerprint],
    now: u64,
) -> (usize, Vec<Lacking>) {
    let (mut edges, mut lacking) = (0, Vec::new());
    let (epoch, since) = (state.mesh.record.epoch, since(state, roots));
    for (namespace, space) in &state.namespaces {
        for edge in space.edges.keys() {
            let mut valid = state.valid_certs(&state.edge_id(namespace, edge), now).peekable();
            if valid.peek().is_none() {
                continue;
            }
            edges += 1;
            // Whoever joins is given the bundle of that moment.
            let given = valid.filter_map(|(_, cert)| cert.bundle).max();
            let (online, applied) = sessions.applied(namespace, edge);
            let has = match since {
                Some(0) => true,
                Some(since) => {
                    applied.is_some_and(|at| at.epoch == epoch && at.mesh >= since)
                        || given.is_some_and(|given| given >= since)
                }
                None => false,
            };
            if !has {
                let (namespace, edge) = (namespace.clone(), edge.clone());
                lacking.push(Lacking { namespace, edge, online });
            }
        }
    }
    (edges, lacking)
}

/// `prod/a, prod/b (offline), …`
pub(crate) fn names(lacking: &[Lacking]) -> String {
    let shown = lacking.iter().map(|row| {
        let offline = if row.online { "" } else { " (offline)" };
        format!("{}/{}{offline}", row.namespace, row.edge)
    });
    some(shown)
}

fn some(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.get(..5) {
        Some(few) if names.len() > 5 => format!("{}, … ({} in all)", few.join(", "), names.len()),
        _ => names.join(", "),
    }
}

pub(super) fn status(state: &State, sessions: &Sightings<'_>, now: u64) -> CaStatus {
    let mut of_root: BTreeMap<Fingerprint, CertCounts> = BTreeMap::new();
    let mut of_issuer: BTreeMap<Fingerprint, CertCounts> = BTreeMap::new();
    for holding in holdings(state, now) {
        for counts in [
            holding.root.map(|root| of_root.entry(root).or_default()),
            holding.issuer.map(|issuer| of_issuer.entry(issuer).or_default()),
        ]
        .into_iter()
        .flatten()
        {
            *match holding.cert.id.role {
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
        let (edges, mut lacking) = lacking(state, sessions, &[root.spki], now);
        let have = edges - lacking.len();
        lacking.truncate(CaStatus::MAX_LACKING);
        RootRow {
            fingerprint: root.spki,
            signs: signing_roots(state).contains(&root.spki),
            revision: state.mesh.record.roots_since.get(&root.spki).copied().unwrap_or(0),
            have: count(have),
            edges: count(edges),
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
    status.next = next::step(state, &status, now);
    status
}

/// The bundle's roots in its order. One that is not of our form was put there by hand, and is left out.
pub(crate) fn roots(state: &State) -> Vec<CaCertificate> {
    let roots = &state.mesh.record.trust.roots;
    roots.iter().filter_map(|der| CaCertificate::root(der).ok()).collect()
}

/// The roots that controllers sign under.
fn signing_roots(state: &State) -> BTreeSet<Fingerprint> {
    signing(state).map(|ca| ca.root).collect()
}

/// The issuing CAs in use: not revoked, and of controllers that the mesh has.
pub(crate) fn signing(state: &State) -> impl Iterator<Item = &record::Issuer> {
    let revoked = &state.mesh.record.trust.revoked_issuers;
    let unrevoked = state.issuers.iter().filter(|(spki, _)| !revoked.contains(spki));
    let signing = unrevoked.map(|(_, ca)| &ca.record).filter(|ca| ca.signs);
    signing.filter(|ca| state.is_controller(&ca.controller))
}

/// Those whose newest certificate is under a root or an issuing CA.
pub(super) fn holders(
    state: &State,
    sessions: &Sightings<'_>,
    ca: Fingerprint,
    now: u64,
) -> Vec<HolderRow> {
    let below = holdings(state, now).filter(|of| of.issuer == Some(ca) || of.root == Some(ca));
    let online = |role: &Role| match role {
        Role::Edge { namespace, name } => sessions.applied(namespace, name).0,
        Role::Controller { .. } | Role::Admin { .. } => false,
    };
    below
        .map(|Holding { serial, cert, .. }| HolderRow {
            id: cert.id.clone(),
            serial,
            not_after: cert.not_after,
            online: online(&cert.id.role),
        })
        .collect()
}

pub(super) fn add_root(state: &State, der: &[u8], now: u64) -> Result<Draft, CallError> {
    let der = cframe_pki::CertificateDer::from(der.to_vec());
    let root = CaCertificate::root(&der).map_err(|error| invalid(error.to_string()))?;
    let mut mesh = state.mesh.record.clone();
    if root.mesh != mesh.name {
        return Err(invalid(format!(
            "this is a root of mesh {}, and this mesh is {}: make one with `cframe-controller ca \
             new-root --mesh {}`",
            root.mesh, mesh.name, mesh.name
        )));
    }
    if !(root.not_before..=root.not_after).contains(&now) {
        return Err(invalid(format!(
            "the root is valid from {} to {} and the clock says {now} (Unix seconds): make a new one",
            root.not_before, root.not_after
        )));
    }
    if roots(state).iter().any(|known| known.spki == root.spki) {
        return Err(conflict(format!("the root {} is in the trust bundle already", root.spki)));
    }
    if mesh.trust.roots.len() >= CaStatus::MAX_ROOTS {
        return Err(conflict(format!(
            "the trust bundle has {} roots, the most there can be; drop one first (`cfctl ca status`)",
            CaStatus::MAX_ROOTS
        )));
    }
    let mut draft = Draft::default();
    mesh.trust.roots.push(der);
    mesh.roots_since.insert(root.spki, mesh.revision + 1);
    draft.bump_mesh(&state.mesh, mesh);
    Ok(draft)
}

/// Who asks for a root to be dropped.
pub(super) struct Asker<'a> {
    /// The caller's certificate.
    pub(super) caller: &'a PeerIdentity,
    /// The root that the controller signs under.
    pub(super) own: Fingerprint,
}

pub(super) fn drop_root(
    state: &State,
    sessions: &Sightings<'_>,
    root: Fingerprint,
    asker: &Asker<'_>,
    force: bool,
    now: u64,
) -> Result<Draft, CallError> {
    let known = roots(state);
    if !known.iter().any(|known| known.spki == root) {
        let there: Vec<String> = known.iter().map(|root| root.spki.to_string()).collect();
        return Err(CallError::new(
            ErrorCode::NotFound,
            format!("no root {root} in the trust bundle; there is {}", there.join(" and ")),
        ));
    }
    let rest: Vec<Fingerprint> =
        known.iter().map(|known| known.spki).filter(|spki| *spki != root).collect();
    if rest.is_empty() {
        return Err(conflict(
            "it is the only root, and without one nobody trusts anybody; add another first (`cfctl ca \
             rotate add`)",
        ));
    }
    if asker.own == root {
        return Err(conflict(
            "the controller that you are talking to signs under it; give it a CA under another root \
             first (`cframe-controller ca renew` on its host)",
        ));
    }
    let callers = asker.caller.issuer.and_then(|issuer| state.issuers.get(&issuer));
    if callers.is_some_and(|issuer| issuer.record.root == root) {
        return Err(conflict(
            "the certificate that you are calling with is under it; renew it first (`cfctl ca rotate renew`)",
        ));
    }
    let obstacles = obstacles(state, sessions, root, &rest, now);
    if !obstacles.is_empty() && !force {
        let mut error = conflict(obstacles.join("; "));
        error.hint = Some(
            "`cfctl ca status` has the next step; --yes drops it all the same and cuts these off"
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

/// What is in the way of dropping a root, a sentence each.
fn obstacles(
    state: &State,
    sessions: &Sightings<'_>,
    root: Fingerprint,
    rest: &[Fingerprint],
    now: u64,
) -> Vec<String> {
    let mut found = Vec::new();
    let signing = signing(state).filter(|ca| ca.root == root);
    let signing: Vec<String> = signing.map(|ca| ca.controller.to_string()).collect();
    if !signing.is_empty() {
        found.push(format!("controllers sign under it: {}", signing.join(", ")));
    }
    let revoked = &state.mesh.record.trust.revoked_issuers;
    let below: Vec<Holding<'_>> = holdings(state, now)
        .filter(|of| of.root == Some(root) && !of.issuer.is_some_and(|ca| revoked.contains(&ca)))
        .collect();
    found.extend(cut_off(&below));
    let (_, lacking) = lacking(state, sessions, rest, now);
    if !lacking.is_empty() {
        found.push(format!(
            "{} edges are not known to have another root, and would trust nobody: {}",
            lacking.len(),
            names(&lacking)
        ));
    }
    found
}

/// Who loses what with a CA, a sentence per kind.
pub(super) fn cut_off(below: &[Holding<'_>]) -> Vec<String> {
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
        ("edge", "cut off, to join again with `cfctl token create --rejoin`"),
        ("controller", "refused by everybody until its certificate is renewed"),
        ("admin", "in need of a new certificate: `cframe-controller admin` on a controller's host"),
    ] {
        let names = of(kind);
        if !names.is_empty() {
            let plural = if names.len() == 1 { "" } else { "s" };
            let count = names.len();
            found.push(format!("{count} {kind}{plural} {loss}: {}", some(names.into_iter())));
        }
    }
    found
}
