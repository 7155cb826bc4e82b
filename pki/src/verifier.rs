//! The decision about a peer's certificate chain, for both ends of a connection.
//!
//! rustls's `WebPkiServerVerifier` needs a DNS name or an address and our certificates have only a
//! URI, so this has a verifier of its own around webpki's check of the chain.

mod chain;
mod refusal;
mod rustls_impl;
mod trust;

use std::{fmt, sync::Arc};

use crate::{
    CertificateDer,
    identity::{CertificateIdentityError, Label, Role, SpiffeId},
};

pub use crate::identity::PeerIdentity;
pub(crate) use chain::{ALGORITHMS, verify_chain};
pub use refusal::Refusal;
pub(crate) use rustls_impl::{join, signatures_of_tls13};
pub use trust::{BundleError, Trust};

/// Decides about an identity of the mesh.
pub type Admit = Arc<dyn Fn(&SpiffeId) -> Result<(), Refusal> + Send + Sync>;

/// Is called for every refusal in a handshake, with the identity that the peer claimed.
pub type Observer = Arc<dyn Fn(&Refusal, Option<&SpiffeId>) + Send + Sync>;

/// Which identities of the mesh are accepted.
#[derive(Clone)]
pub enum Policy {
    Edges {
        namespace: Label,
        /// This edge's own name, which is refused.
        not_self: Option<Label>,
    },
    Controller,
    /// Edges of any namespace, admins and controllers.
    ControlClients,
    /// Called after the mesh has been checked.
    Custom(Admit),
}

/// The side that presented the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerSide {
    /// Its certificate must be valid for server authentication.
    Server,
    /// Its certificate must be valid for client authentication.
    Client,
}

/// A `ServerCertVerifier` and `ClientCertVerifier` for rustls.
///
/// A chain is accepted if
///
/// - it leads to a root of the bundle and every certificate in it is valid now,
/// - none of its keys is that of a revoked issuer,
/// - the leaf names exactly one SPIFFE ID, of this mesh, that the policy accepts,
/// - the deny-list has neither the leaf's serial nor its key.
///
/// Client certificates are mandatory.
#[derive(Clone)]
pub struct PeerVerifier {
    trust: Trust,
    policy: Policy,
    observer: Option<Observer>,
}

impl PeerVerifier {
    /// The verifier follows every replacement of `trust`'s content.
    pub fn new(trust: Trust, policy: Policy) -> Self {
        Self { trust, policy, observer: None }
    }

    /// Sets the function that counts and logs refusals. The identity that it gets is `None` if the
    /// chain proves nothing; that of an expired certificate is unproven.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Decides about a chain, leaf first, at `now` (Unix seconds). Use it to judge an established
    /// connection again after the trust has changed; the observer is not called.
    pub fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        side: PeerSide,
        now: u64,
    ) -> Result<PeerIdentity, Refusal> {
        let state = self.trust.current();
        let usage = match side {
            PeerSide::Server => webpki::KeyUsage::server_auth(),
            PeerSide::Client => webpki::KeyUsage::client_auth(),
        };
        let keys = verify_chain(chain, &state.anchors, now, usage)?;
        if let Some(issuer) = keys.iter().find(|key| state.bundle.revoked_issuers.contains(key)) {
            return Err(Refusal::RevokedIssuer { issuer: *issuer });
        }
        let peer = PeerIdentity::from_chain(chain)?;
        if peer.id.mesh != *self.trust.mesh() {
            return Err(Refusal::WrongMesh);
        }
        self.policy.admit(&peer.id)?;
        // Before the peer is accepted, so that a removal of the root from here on finds it.
        if let Some(root) = keys.last() {
            self.trust.record_root(&peer, *root);
        }
        self.trust.denial(&peer)?;
        Ok(peer)
    }

    /// [`judge`](Self::judge) that reports a refusal to the observer.
    fn judge_handshake(
        &self,
        chain: &[CertificateDer<'_>],
        side: PeerSide,
        now: u64,
    ) -> Result<PeerIdentity, Refusal> {
        self.judge(chain, side, now).inspect_err(|refusal| {
            let Some(observer) = &self.observer else {
                return;
            };
            let leaf = chain.first().filter(|_| !matches!(refusal, Refusal::NotTrusted(_)));
            let claimed = leaf.and_then(|leaf| SpiffeId::from_certificate(leaf).ok());
            observer(refusal, claimed.as_ref());
        })
    }
}

impl Policy {
    pub fn admit(&self, id: &SpiffeId) -> Result<(), Refusal> {
        match (self, &id.role) {
            (Self::Edges { namespace, .. }, Role::Edge { namespace: theirs, .. })
                if theirs != namespace =>
            {
                Err(Refusal::WrongNamespace)
            }
            (Self::Edges { not_self: Some(us), .. }, Role::Edge { name, .. }) if name == us => {
                Err(Refusal::IsSelf)
            }
            (Self::Edges { .. }, Role::Edge { .. })
            | (Self::Controller, Role::Controller { .. })
            | (Self::ControlClients, _) => Ok(()),
            (Self::Custom(admit), _) => admit(id),
            (Self::Edges { .. } | Self::Controller, role) => {
                Err(Refusal::WrongRole { role: role.kind() })
            }
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edges { namespace, .. } => write!(f, "edges of {namespace}"),
            Self::Controller => f.write_str("controllers"),
            Self::ControlClients => f.write_str("edges, admins and controllers"),
            Self::Custom(_) => f.write_str("custom"),
        }
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerVerifier({}, {:?})", self.trust.mesh(), self.policy)
    }
}

/// See [`PeerIdentity::from_chain`].
pub fn peer_identity(
    chain: &[CertificateDer<'_>],
) -> Result<PeerIdentity, CertificateIdentityError> {
    PeerIdentity::from_chain(chain)
}
