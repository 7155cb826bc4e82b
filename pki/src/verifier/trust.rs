//! The trust that verifiers share, replaced while they run.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::pki_types::TrustAnchor;

use super::Refusal;
use crate::{
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
}

pub(super) struct State {
    pub(super) bundle: TrustBundle,
    pub(super) deny: DenyList,
    pub(super) anchors: Vec<TrustAnchor<'static>>,
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
        Ok(Self(Arc::new(Shared { mesh, state })))
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

    /// Whether an accepted peer is to be cut off by revocation: of its certificate, its key or its
    /// issuer. No cryptography, so that all standing connections can be asked at once.
    ///
    /// # Errors
    /// [`Refusal::Denied`] or [`Refusal::RevokedIssuer`].
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
        Ok(())
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
        let anchors = bundle.roots.iter().enumerate().map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { bundle, deny, anchors })
    }
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
