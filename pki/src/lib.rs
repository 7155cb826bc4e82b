//! Identities of a cframe mesh and what proves them: SPIFFE IDs in X.509 certificates, the CAs that
//! issue these, join tokens, the verifiers for both ends of every connection, and the rustls
//! configurations built on them.
//!
//! - [`identity`]: names and SPIFFE IDs, and what a certificate says about its holder.
//! - [`key`], [`files`], [`seal`]: private keys, and how they lie on disk and in backups.
//! - [`issue`]: root and issuing CAs. Of a signing request only the public key is used.
//! - [`bundle`], [`verifier`]: who is trusted, who is denied, and the decision about a peer.
//! - [`token`]: join tokens, which carry the pin of the root's public key.
//! - [`tls`]: TLS 1.3 without resumption or 0-RTT, for links, control sessions and enrolment.
//! - [`renewal`]: when a certificate is renewed.
//!
//! Times are seconds since the Unix epoch unless they say otherwise. Everything is ECDSA P-256 with
//! SHA-256; aws-lc-rs is the one provider of cryptography.

#![deny(missing_docs)]
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
mod pem;
mod spki;
#[cfg(test)]
mod testing;

pub use digest::{Fingerprint, ParseHexError, Serial};
pub use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

/// The system's clock in seconds since the Unix epoch; 0 for a clock before it.
pub fn unix_now() -> u64 {
    rustls::pki_types::UnixTime::now().as_secs()
}

/// A certificate as a PEM block (RFC 7468).
pub fn certificate_pem(der: &[u8]) -> String {
    pem::encode("CERTIFICATE", der).to_string()
}
