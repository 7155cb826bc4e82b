//! This controller's issuing CA, and its own certificate.

use std::sync::{Arc, PoisonError, RwLock};

use cframe_pki::{
    CertificateDer, Fingerprint,
    bundle::TrustBundle,
    identity::{Label, PeerIdentity, Role, SpiffeId},
    issue::{CaCertificate, IssuedCertificate, IssuingCa, LEAF_LIFETIME, RootError, VerifiedCsr},
    key::PrivateKey,
    tls::Credentials,
};
use cframe_protocol::v1::{CallError, ErrorCode};
use thiserror::Error;

use crate::{
    audit::Act,
    check::invalid,
    draft::Draft,
    mesh::Mesh,
    model::State,
    record::{self, Key},
    registration,
};

/// Signs for this controller.
#[derive(Debug)]
pub struct Issuer {
    ca: IssuingCa,
    root: CaCertificate,
}

/// The issuing CA in use. Clones share it; another takes its place while the controller runs.
#[derive(Debug, Clone)]
pub struct LiveIssuer(Arc<RwLock<Arc<Issuer>>>);

/// A root and an issuing CA that don't go together.
#[derive(Debug, Error)]
pub enum IssuerError {
    /// The root's certificate is none.
    #[error("the root's certificate: {0}")]
    Root(#[from] RootError),
    /// Another root has signed the issuing CA.
    #[error("the root {root} has not signed the issuing CA {issuer}")]
    NotBelow {
        /// The root's public key.
        root: Fingerprint,
        /// The issuing CA's.
        issuer: Fingerprint,
    },
}

/// A signed certificate with the record that the store keeps of it.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: IssuedCertificate,
    /// Its record.
    pub record: record::Cert,
}

impl Issuer {
    /// Puts together what signing needs. `root` is the root above `ca`.
    ///
    /// # Errors
    /// If `root` is no root's certificate, or has not signed `ca`.
    pub fn new(ca: IssuingCa, root: &CertificateDer<'_>) -> Result<Self, IssuerError> {
        let root = CaCertificate::root(root)?;
        if !root.signs(ca.certificate()) {
            return Err(IssuerError::NotBelow { root: root.spki, issuer: ca.spki_sha256() });
        }
        Ok(Self { ca, root })
    }

    /// The CA.
    pub fn ca(&self) -> &IssuingCa {
        &self.ca
    }

    /// The root above it.
    pub fn root(&self) -> &CaCertificate {
        &self.root
    }

    /// What join tokens pin: the root's public key.
    pub fn pin(&self) -> Fingerprint {
        self.root.spki
    }

    /// The CA's record: `added` now unless it is known already.
    pub(crate) fn record(&self, state: &State, controller: &Label, now: u64) -> record::Issuer {
        let known = state.issuers.get(&self.ca.spki_sha256());
        record::Issuer {
            controller: controller.clone(),
            root: self.root.spki,
            not_before: self.ca.not_before(),
            not_after: self.ca.not_after(),
            added: known.map_or(now, |known| known.record.added),
            signs: true,
        }
    }

    /// Signs a leaf of the usual lifetime for the request's key, unless that key is denied.
    ///
    /// # Errors
    /// If the key is denied or the CA cannot sign now.
    pub fn issue(
        &self,
        state: &State,
        csr: &VerifiedCsr,
        id: &SpiffeId,
        now: u64,
    ) -> Result<Issued, CallError> {
        let spki = csr.spki_sha256();
        if state.denied.values().any(|denied| denied.record.entry.spki == spki) {
            return Err(invalid(format!(
                "the public key {spki} was revoked; make a new key and a new request"
            )));
        }
        let certificate = self.ca.issue(csr, id, LEAF_LIFETIME, now).map_err(|error| {
            tracing::error!(%error, %id, "no certificate was issued");
            CallError::new(ErrorCode::Internal, format!("no certificate for {id}: {error}"))
        })?;
        let record = record::Cert {
            id: id.clone(),
            spki,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            renews: None,
            issuer: Some(self.ca.spki_sha256()),
            bundle: None,
        };
        Ok(Issued { certificate, record })
    }

    /// The chain that goes with a leaf: the leaf, this CA.
    pub fn chain(&self, issued: &IssuedCertificate) -> Vec<CertificateDer<'static>> {
        vec![issued.der.clone(), self.ca.certificate().clone()]
    }

    /// The same as bytes for the wire.
    pub fn wire_chain(&self, issued: &IssuedCertificate) -> Vec<Vec<u8>> {
        self.chain(issued).iter().map(|der| der.to_vec()).collect()
    }
}

impl LiveIssuer {
    /// With this one.
    pub fn new(issuer: Issuer) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(issuer))))
    }

    /// The one in use.
    pub fn current(&self) -> Arc<Issuer> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, issuer: Arc<Issuer>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = issuer;
    }
}

impl Issued {
    /// Has the store record it.
    pub fn record(&self, draft: &mut Draft) {
        let key = Key::Cert(self.certificate.serial);
        draft.compare(key.clone(), 0);
        draft.put(key, &self.record);
    }
}

/// Verifies a signing request.
///
/// # Errors
/// If it is malformed or not signed by its own key.
pub fn verify_csr(der: &[u8]) -> Result<VerifiedCsr, CallError> {
    VerifiedCsr::from_der(der).map_err(|error| invalid(error.to_string()))
}

/// Why the controller's own certificate was not renewed.
#[derive(Debug, Error)]
pub enum RenewError {
    /// No key.
    #[error(transparent)]
    Key(#[from] cframe_pki::key::KeyError),
    /// Not signed or not recorded.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Has a CA make the controller's own certificate, with a new key, and records both: that one, and that
/// this CA signs from now on, with the record of the act. Answers with the new credentials, which nobody uses yet.
///
/// # Errors
/// If one of these fails; then nothing is recorded.
pub(crate) async fn certify_own(
    mesh: &Mesh,
    issuer: &Issuer,
    id: &SpiffeId,
    act: &Act,
) -> Result<Credentials, RenewError> {
    let key = PrivateKey::generate()?;
    let csr = verify_csr(&key.csr()?)?;
    let name = id.role.name();
    let written = mesh.write(name.as_str(), act, |state| {
        let mut draft = Draft::default();
        if !state.is_controller(name) {
            let why = format!("controller {name} was removed from the mesh");
            return Err(CallError::new(ErrorCode::NotAllowed, why));
        }
        let issued = issuer.issue(state, &csr, id, mesh.now())?;
        issued.record(&mut draft);
        announce(&mut draft, state, issuer, name, mesh.now());
        registration::rely_on(&mut draft, state, name);
        Ok((draft, issued))
    });
    let (_, issued) = written.await?;
    Ok(Credentials { chain: issuer.chain(&issued.certificate), key })
}

/// Records the CA that a controller signs with, also in its registration if it has one, and that its others don't.
pub(crate) fn announce(
    draft: &mut Draft,
    state: &State,
    issuer: &Issuer,
    controller: &Label,
    now: u64,
) {
    let own = issuer.ca().spki_sha256();
    let record = issuer.record(state, controller, now);
    let known = state.issuers.get(&own);
    if known.is_none_or(|known| known.record != record) {
        draft.compare(Key::Issuer(own), known.map_or(0, |known| known.modified));
        draft.put(Key::Issuer(own), &record);
    }
    let others = state.issuers.iter().filter(|(spki, other)| {
        **spki != own && other.record.controller == *controller && other.record.signs
    });
    for (spki, other) in others {
        draft.compare(Key::Issuer(*spki), other.modified);
        draft.put(Key::Issuer(*spki), &record::Issuer { signs: false, ..other.record.clone() });
    }
    if let Some(registered) = state.controllers.get(controller) {
        let certificate = issuer.ca().certificate();
        draft.compare(Key::Controller(controller.clone()), registered.modified);
        if registered.record.issuer != *certificate {
            let issuer = certificate.clone();
            let record = record::Controller { issuer, ..registered.record.clone() };
            draft.put(Key::Controller(controller.clone()), &record);
        }
    }
}

/// Records a certificate that was verified, unless it is known: it was issued after the backup that the store
/// was restored from.
pub(crate) fn adopt(draft: &mut Draft, state: &State, peer: &PeerIdentity) {
    if state.certs.contains_key(&peer.serial) {
        return;
    }
    let record = record::Cert {
        id: peer.id.clone(),
        spki: peer.spki,
        not_before: peer.not_before,
        not_after: peer.not_after,
        renews: None,
        issuer: peer.issuer,
        bundle: None,
    };
    if let Role::Edge { namespace, name } = &peer.id.role
        && let Some(edge) = state.namespaces.get(namespace).and_then(|of| of.edges.get(name))
    {
        draft.rewrite(Key::Edge(namespace.clone(), name.clone()), edge);
    }
    draft.compare(Key::Cert(peer.serial), 0);
    draft.put(Key::Cert(peer.serial), &record);
}

/// The serial of a chain's leaf, for the log.
pub(crate) fn serial(chain: &[Vec<u8>]) -> String {
    let leaf = chain.first().map(|der| CertificateDer::from(der.as_slice()));
    let peer = leaf.and_then(|leaf| cframe_pki::verifier::peer_identity(&[leaf]).ok());
    peer.map(|peer| peer.serial.to_string()).unwrap_or_default()
}

/// The trust bundle in the form that goes to a new participant.
pub fn bundle(state: &State) -> TrustBundle {
    state.mesh.record.trust.clone()
}
