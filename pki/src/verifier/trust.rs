//! The trust that verifiers share, replaced while they run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use rustls::pki_types::TrustAnchor;

use super::Refusal;
use crate::{
    Fingerprint,
    bundle::{DenyList, TrustBundle},
    identity::{MeshName, PeerIdentity},
};

/// A handle on what is trusted: clones share one state.
///
/// A replacement holds from the next handshake on. Connections that stand are the caller's to judge
/// again, with [`denial`](Self::denial) or [`PeerVerifier::judge`](super::PeerVerifier::judge).
#[derive(Clone)]
pub struct Trust(Arc<Shared>);

struct Shared {
    mesh: MeshName,
    state: RwLock<Arc<State>>,
    /// The roots under which each issuing CA was seen in an accepted chain, by public keys. There are as
    /// many as controllers had CAs. Written by handshakes alone, so that no certificate says of itself
    /// what it hangs on.
    rooted: Mutex<BTreeMap<Fingerprint, BTreeSet<Fingerprint>>>,
}

pub(super) struct State {
    pub(super) bundle: TrustBundle,
    pub(super) deny: DenyList,
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    roots: BTreeSet<Fingerprint>,
}

/// A trust bundle that would cut everything off; what was trusted before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It has no root.
    #[error("the trust bundle has no root certificate")]
    Empty,
    /// A root doesn't parse.
    #[error("root certificate {index} of the trust bundle is malformed: {error}")]
    Root {
        /// Its place in the bundle, from 0.
        index: usize,
        /// What webpki says.
        error: webpki::Error,
    },
}

impl Trust {
    /// # Errors
    /// When the bundle has no roots or one that doesn't parse.
    pub fn new(mesh: MeshName, bundle: TrustBundle, deny: DenyList) -> Result<Self, BundleError> {
        let state = RwLock::new(Arc::new(State::new(bundle, deny)?));
        Ok(Self(Arc::new(Shared { mesh, state, rooted: Mutex::default() })))
    }

    /// Replaces what is trusted and denied, for all clones, from the next handshake on.
    ///
    /// # Errors
    /// As [`new`](Self::new); the former state stays.
    pub fn replace(&self, bundle: TrustBundle, deny: DenyList) -> Result<(), BundleError> {
        let state = Arc::new(State::new(bundle, deny)?);
        *self.0.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    /// The mesh.
    pub fn mesh(&self) -> &MeshName {
        &self.0.mesh
    }

    /// The bundle as it is now.
    pub fn bundle(&self) -> TrustBundle {
        self.current().bundle.clone()
    }

    /// The deny-list as it is now.
    pub fn deny(&self) -> DenyList {
        self.current().deny.clone()
    }

    /// Whether an accepted peer is to be cut off: by revocation of its certificate, its key or its
    /// issuer, or because the root above that has left the bundle. No cryptography, so that all
    /// standing connections can be asked at once.
    ///
    /// # Errors
    /// [`Refusal::Denied`], [`Refusal::RevokedIssuer`] or [`Refusal::RootRemoved`].
    pub fn denial(&self, peer: &PeerIdentity) -> Result<(), Refusal> {
        let state = self.current();
        if let Some(issuer) = peer.issuer
            && state.bundle.revoked_issuers.contains(&issuer)
        {
            return Err(Refusal::RevokedIssuer { issuer });
        }
        if state.deny.denies(&peer.id, peer.serial, peer.spki) {
            return Err(Refusal::Denied);
        }
        let rooted = self.0.rooted.lock().unwrap_or_else(PoisonError::into_inner);
        match rooted.get(&signer(peer)) {
            Some(roots) if roots.is_disjoint(&state.roots) => Err(Refusal::RootRemoved),
            // Handshakes note every chain that they accept; what was never accepted here has no root to lose.
            Some(_) | None => Ok(()),
        }
    }

    /// Notes the root, by its public key, that an accepted chain has led to.
    pub(super) fn note_root(&self, peer: &PeerIdentity, root: Fingerprint) {
        let mut rooted = self.0.rooted.lock().unwrap_or_else(PoisonError::into_inner);
        rooted.entry(signer(peer)).or_default().insert(root);
    }

    pub(super) fn current(&self) -> Arc<State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl State {
    fn new(bundle: TrustBundle, deny: DenyList) -> Result<Self, BundleError> {
        if bundle.roots.is_empty() {
            return Err(BundleError::Empty);
        }
        let anchor = |(index, root)| {
            webpki::anchor_from_trusted_cert(root)
                .map(|anchor| anchor.to_owned())
                .map_err(|error| BundleError::Root { index, error })
        };
        let anchors: Vec<TrustAnchor<'static>> =
            bundle.roots.iter().enumerate().map(anchor).collect::<Result<_, _>>()?;
        let spki =
            |anchor: &TrustAnchor<'_>| Fingerprint::of_spki(&webpki::spki_for_anchor(anchor));
        let roots = anchors.iter().map(spki).collect();
        Ok(Self { bundle, deny, anchors, roots })
    }
}

/// The key that a chain's place in the mesh hangs on: the issuing CA's, or of a leaf that a root has
/// signed itself the leaf's own.
fn signer(peer: &PeerIdentity) -> Fingerprint {
    peer.issuer.unwrap_or(peer.spki)
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.current();
        f.debug_struct("Trust")
            .field("mesh", self.mesh())
            .field("roots", &state.bundle.roots.len())
            .field("revoked_issuers", &state.bundle.revoked_issuers)
            .field("denied", &state.deny.len())
            .finish()
    }
}
