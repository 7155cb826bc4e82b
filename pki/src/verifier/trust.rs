//! Trust that verifiers share and that can be replaced while they run.

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

/// Bundle and deny-list in use; clones share one state.
///
/// A replacement applies to handshakes that follow. The caller checks established connections again,
/// with [`denial`](Self::denial) or [`PeerVerifier::judge`](super::PeerVerifier::judge).
#[derive(Clone)]
pub struct Trust(Arc<Shared>);

struct Shared {
    mesh: MeshName,
    state: RwLock<Arc<State>>,
    /// The roots that accepted chains of each issuing CA led to, by public keys. Only verified
    /// handshakes write it, so that no certificate can claim a root.
    rooted: Mutex<BTreeMap<Fingerprint, BTreeSet<Fingerprint>>>,
}

pub(super) struct State {
    pub(super) bundle: TrustBundle,
    pub(super) deny: DenyList,
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    roots: BTreeSet<Fingerprint>,
}

/// A trust bundle that no chain could lead to. The previous one stays in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error("the trust bundle has no root certificate")]
    Empty,
    #[error("root certificate {index} of the trust bundle is malformed: {error}")]
    Root {
        /// Its place in the bundle, from 0.
        index: usize,
        error: webpki::Error,
    },
}

impl Trust {
    pub fn new(mesh: MeshName, bundle: TrustBundle, deny: DenyList) -> Result<Self, BundleError> {
        let state = RwLock::new(Arc::new(State::new(bundle, deny)?));
        Ok(Self(Arc::new(Shared { mesh, state, rooted: Mutex::default() })))
    }

    /// Replaces bundle and deny-list for all clones. On an error the previous ones stay.
    pub fn replace(&self, bundle: TrustBundle, deny: DenyList) -> Result<(), BundleError> {
        let state = Arc::new(State::new(bundle, deny)?);
        *self.0.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    pub fn mesh(&self) -> &MeshName {
        &self.0.mesh
    }

    pub fn bundle(&self) -> TrustBundle {
        self.current().bundle.clone()
    }

    pub fn deny(&self) -> DenyList {
        self.current().deny.clone()
    }

    /// Checks a peer that a handshake has accepted again: its certificate, key or issuer may have been
    /// revoked, or its root removed from the bundle. There is no cryptography in it, so that all
    /// connections can be checked after every change.
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
            // `None`: no handshake here has accepted this chain, so no root of it is known.
            Some(_) | None => Ok(()),
        }
    }

    /// Records the root, by its public key, that an accepted chain leads to.
    pub(super) fn record_root(&self, peer: &PeerIdentity, root: Fingerprint) {
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

/// The key below the root: the issuing CA's, or the leaf's own if a root has signed it.
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
