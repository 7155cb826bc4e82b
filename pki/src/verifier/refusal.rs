//! Why a peer is refused.

use std::{fmt, sync::Arc, time::Duration};

use rustls::{CertificateError, OtherError, pki_types::UnixTime};

use crate::{Fingerprint, identity::CertificateIdentityError};

/// Why a peer was refused, for the refusing side's log and metrics.
///
/// The peer may see the text, so it names nothing but what the peer has presented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("not trusted: {0}")]
    NotTrusted(String),
    /// A certificate in the chain has expired. Unix seconds.
    #[error("certificate expired {} s ago (not after {not_after}, clock {now})", now - not_after)]
    Expired { not_after: u64, now: u64 },
    /// A certificate in the chain is not valid yet. Unix seconds.
    #[error(
        "certificate not valid for another {} s (not before {not_before}, clock {now}): \
         is a clock wrong?",
        not_before - now
    )]
    NotYetValid { not_before: u64, now: u64 },
    #[error("the issuing CA with the key {issuer} is revoked")]
    RevokedIssuer { issuer: Fingerprint },
    #[error("the certificate is revoked")]
    Denied,
    /// The root that the chain leads to was removed from the trust bundle after the handshake.
    #[error("the root CA of the certificate's chain is not trusted any more")]
    RootRemoved,
    /// The chain leads to one of our roots and yet names another mesh.
    #[error("an identity of another mesh")]
    WrongMesh,
    #[error("the role {role} is not accepted here")]
    WrongRole { role: &'static str },
    #[error("an edge of another namespace")]
    WrongNamespace,
    #[error("the peer has our own identity: is one edge's state in use on two hosts?")]
    IsSelf,
    #[error("malformed identity: {0}")]
    MalformedIdentity(#[from] CertificateIdentityError),
    /// At enrolment: no certificate of the controller's chain has the key that the token pins.
    #[error(
        "the controller's root CA is not the one that the join token was made for: somebody may be \
         intercepting the connection, or the root has changed; make a new token"
    )]
    PinMismatch,
    /// The reason that a [`Policy::Custom`](super::Policy::Custom) gave.
    #[error("{0}")]
    Policy(String),
}

impl Refusal {
    /// A metric's label, in `snake_case`. Stable.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotTrusted(_) => "not_trusted",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::RevokedIssuer { .. } => "revoked_issuer",
            Self::Denied => "denied",
            Self::RootRemoved => "root_removed",
            Self::WrongMesh => "wrong_mesh",
            Self::WrongRole { .. } => "wrong_role",
            Self::WrongNamespace => "wrong_namespace",
            Self::IsSelf => "is_self",
            Self::MalformedIdentity(_) => "malformed_identity",
            Self::PinMismatch => "pin_mismatch",
            Self::Policy(_) => "policy",
        }
    }

    /// The refusal inside an error of rustls; `None` for the kinds that became an error of rustls's own
    /// (see `From<Refusal>`).
    pub fn of(error: &rustls::Error) -> Option<&Self> {
        let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else {
            return None;
        };
        other.0.downcast_ref::<Shown>().map(|shown| &shown.0)
    }
}

/// Expiry, revocation and lack of trust become rustls's own errors, so that the peer gets a TLS alert
/// that says what to do: `certificate_expired`, `certificate_revoked` or `unknown_ca`. The others keep
/// their text.
impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        Self::InvalidCertificate(match refusal {
            Refusal::Expired { not_after, now } => {
                CertificateError::ExpiredContext { time: time(now), not_after: time(not_after) }
            }
            Refusal::NotYetValid { not_before, now } => CertificateError::NotValidYetContext {
                time: time(now),
                not_before: time(not_before),
            },
            Refusal::RevokedIssuer { .. } | Refusal::Denied => CertificateError::Revoked,
            Refusal::NotTrusted(_) | Refusal::RootRemoved => CertificateError::UnknownIssuer,
            other @ (Refusal::WrongMesh
            | Refusal::WrongRole { .. }
            | Refusal::WrongNamespace
            | Refusal::IsSelf
            | Refusal::MalformedIdentity(_)
            | Refusal::PinMismatch
            | Refusal::Policy(_)) => CertificateError::Other(OtherError(Arc::new(Shown(other)))),
        })
    }
}

/// rustls shows such an error by its `Debug` form, which is the text here.
#[derive(thiserror::Error)]
#[error("{0}")]
struct Shown(Refusal);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
