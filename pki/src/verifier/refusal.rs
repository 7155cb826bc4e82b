//! Reasons for a refusal.

use std::{sync::Arc, time::Duration};

use rustls::{CertificateError, OtherError, pki_types::UnixTime};

use crate::{Fingerprint, identity::CertificateIdentityError};

/// Why a peer was refused, for the refusing side's log and counters.
///
/// The peer may get to see the text, so that it names only what the peer has presented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The chain doesn't lead to a root of the bundle.
    #[error("not trusted: {0}")]
    NotTrusted(String),
    /// The certificate, or its issuer's, was valid before; times in Unix seconds.
    #[error("certificate expired {} s ago (not after {not_after}, clock {now})", now - not_after)]
    Expired {
        /// The end of its validity.
        not_after: u64,
        /// Our clock.
        now: u64,
    },
    /// The certificate, or its issuer's, will be valid; times in Unix seconds.
    #[error(
        "certificate not valid for another {} s (not before {not_before}, clock {now}): \
         is a clock wrong?",
        not_before - now
    )]
    NotYetValid {
        /// The beginning of its validity.
        not_before: u64,
        /// Our clock.
        now: u64,
    },
    /// A CA in the chain has been revoked.
    #[error("the issuing CA with the key {issuer} is revoked")]
    RevokedIssuer {
        /// The CA's public key.
        issuer: Fingerprint,
    },
    /// The certificate is on the deny-list.
    #[error("the certificate is revoked")]
    Denied,
    /// The root CA that the chain leads to has left the trust bundle since the handshake.
    #[error("the root CA above the certificate is not trusted any more")]
    RootRemoved,
    /// An identity of another mesh, though below one of our roots.
    #[error("an identity of another mesh")]
    WrongMesh,
    /// A role that has no business on this port.
    #[error("the role {role} is not accepted here")]
    WrongRole {
        /// The peer's role.
        role: &'static str,
    },
    /// An edge of another namespace.
    #[error("an edge of another namespace")]
    WrongNamespace,
    /// A certificate with our own name.
    #[error("the peer has our own identity: is one edge's state in use on two hosts?")]
    IsSelf,
    /// The certificate doesn't name exactly one participant.
    #[error("malformed identity: {0}")]
    MalformedIdentity(#[from] CertificateIdentityError),
    /// At enrolment: the controller's chain has no CA with the key that the token pins.
    #[error(
        "the controller's root CA is not the one that the join token was made for: somebody may be \
         in between, or the root has changed; make a new token"
    )]
    PinMismatch,
    /// A reason of a [`Policy::Custom`](super::Policy::Custom).
    #[error("{0}")]
    Policy(String),
}

impl Refusal {
    /// The reason as a metric's label: `snake_case`, stable.
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

    /// The refusal in an error of rustls, if it is one that came through as itself: see the
    /// conversion.
    pub fn of(error: &rustls::Error) -> Option<&Self> {
        let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else {
            return None;
        };
        other.0.downcast_ref()
    }
}

/// Time and revocation become rustls's own errors, so that the peer gets the alert that tells it what
/// to do (`certificate_expired`, `certificate_revoked`, `unknown_ca`); the rest keeps its text.
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
            | Refusal::Policy(_)) => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}
