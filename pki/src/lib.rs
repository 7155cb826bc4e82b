//! Identities of a cframe mesh: SPIFFE IDs in X.509 certificates, the CAs that issue these, join
//! tokens, and the verifiers and rustls configurations for both ends of every connection.
//!
//! - [`identity`]: names, SPIFFE IDs, and reading them from certificates.
//! - [`key`], [`files`], [`seal`]: private keys, on disk and in backups.
//! - [`issue`]: root and issuing CAs.
//! - [`bundle`], [`verifier`]: trust bundle, deny-list, and the decision about a peer.
//! - [`token`]: join tokens.
//! - [`tls`]: configurations for links, control sessions and enrolment.
//! - [`renewal`]: when a certificate is renewed.
//!
//! Times are seconds since the Unix epoch unless they say otherwise. Everything is ECDSA P-256 with
//! SHA-256; aws-lc-rs is the one provider of cryptography.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm))]

pub mod bundle;
pub mod files;
pub mod identity;
pub mod issue;
pub mod key;
pub mod renewal;
pub mod seal;
pub mod tls;
pub mod token;
pub mod verifier;

mod digest;
mod excerpt;
mod pem;
mod spki;

pub use digest::{Fingerprint, ParseHexError, Serial};
pub use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

/// The system's clock in Unix seconds; 0 if it is before 1970.
pub fn unix_now() -> u64 {
    rustls::pki_types::UnixTime::now().as_secs()
}

/// A certificate as a PEM block (RFC 7468).
pub fn certificate_pem(der: &[u8]) -> String {
    pem::encode("CERTIFICATE", der).to_string()
}
