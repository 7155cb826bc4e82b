//! Who is let in: the decision about a peer's certificate chain, for both ends of a connection.
//!
//! `WebPkiServerVerifier` wants a DNS name or an address, and our certificates have a URI only, so the
//! verifier is ours, around webpki's check of the chain.

mod chain;
mod refusal;
mod rustls_impl;
#[cfg(test)]
mod tests;
mod trust;

use std::{fmt, sync::Arc};

use crate::{
    CertificateDer,
    identity::{CertificateIdentityError, Label, Role, SpiffeId},
};

pub use crate::identity::PeerIdentity;
pub(crate) use chain::{ALGORITHMS, verify_chain, verify_handshake_signature};
pub use refusal::Refusal;
pub(crate) use rustls_impl::join;
pub use trust::{BundleError, Trust};

/// A function that decides about an identity of the mesh.
pub type Admit = Arc<dyn Fn(&SpiffeId) -> Result<(), Refusal> + Send + Sync>;

/// A function that is told of every refusal, with the identity that the peer claimed.
pub type Observer = Arc<dyn Fn(&Refusal, Option<&SpiffeId>) + Send + Sync>;

/// Which identities of the mesh are accepted.
#[derive(Clone)]
pub enum Policy {
    /// Edges of one namespace.
    Edges {
        /// The namespace.
        namespace: Label,
        /// The edge that is us, which is not a peer.
        not_self: Option<Label>,
    },
    /// Controllers.
    Controller,
    /// What connects to a controller: edges of any namespace, admins, and other controllers.
    ControlClients,
    /// What a function lets through, after the mesh has been checked.
    Custom(Admit),
}

/// The side that presented the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerSide {
    /// It answered us: its certificate must be good for server authentication.
    Server,
    /// It dialled us: for client authentication.
    Client,
}

/// The decision about peers, as rustls's `ServerCertVerifier` and `ClientCertVerifier`.
///
/// A chain is accepted if it leads to a root of the bundle, every certificate in it is valid now, no
/// key in it is of a revoked issuer, the leaf names exactly one SPIFFE ID, of this mesh, that the
/// policy lets through, and the deny-list has neither its serial nor its key. Client certificates
/// are mandatory.
#[derive(Clone)]
pub struct PeerVerifier {
    trust: Trust,
    policy: Policy,
    observer: Option<Observer>,
}

impl PeerVerifier {
    /// A verifier that follows `trust` when that is replaced.
    pub fn new(trust: Trust, policy: Policy) -> Self {
        Self { trust, policy, observer: None }
    }

    /// Has every refusal in a handshake told to `observer`, to be counted and logged, with the
    /// identity that the peer claimed. The claim is `None` where the chain proves nothing; that of
    /// an expired certificate is unproven.
    #[must_use]
    pub fn with_observer(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Decides about a chain, leaf first, at `now` (Unix seconds). Handshakes come here; a standing
    /// connection can be judged again after the trust has changed. Doesn't tell the observer.
    ///
    /// # Errors
    /// The reason why the peer is refused.
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
        // Before the peer is anybody's: from here on a removal of that root finds it.
        if let Some(root) = keys.last() {
            self.trust.note_root(&peer, *root);
        }
        self.trust.denial(&peer)?;
        Ok(peer)
    }

    /// [`judge`](Self::judge), with the refusal told to the observer.
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
    /// Decides about an identity of this mesh.
    ///
    /// # Errors
    /// The reason why it is refused.
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

/// Who a chain, leaf first, speaks for: use it on the chain of an established connection, which the
/// handshake has verified.
///
/// # Errors
/// When the leaf doesn't name a participant of a mesh.
pub fn peer_identity(
    chain: &[CertificateDer<'_>],
) -> Result<PeerIdentity, CertificateIdentityError> {
    PeerIdentity::from_chain(chain)
}
