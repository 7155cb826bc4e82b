//! `cfctl ca …`

use std::path::PathBuf;

use cframe_pki::Fingerprint;
use clap::Subcommand;

use crate::value;

#[derive(Debug, Subcommand)]
pub enum CaVerb {
    /// Show the roots and the issuing CAs; with -o json also the roots' certificates.
    Show,
    /// Show the progress of a rotation: which edges have which root, each CA's certificates, the next step.
    ///
    /// With --wait it returns when every edge has every root of the bundle, and exits 7 after --timeout.
    #[command(after_long_help = "\
Examples:
  cfctl ca status
  cfctl ca status --wait --timeout 5m
  cfctl ca status -o json | jq -r .next")]
    Status,
    /// Replace a root CA, step by step. Each step can be undone.
    #[command(
        subcommand,
        after_long_help = "\
The steps, each when `cfctl ca status` says so:
  cframe-controller ca new-root --mesh NAME --out DIR   # anywhere, also offline
  cfctl ca rotate add DIR/root.pem --wait               # undo: cfctl ca rotate drop
  cframe-controller ca renew --root DIR                 # on each controller's host; undo: ca use
  cfctl ca rotate renew                                 # new certificates for all
  cfctl ca rotate drop 8e040b137bc2a8b41c4b038cd91f27ba45cd052caf05c67f6100ea138ad1bac7
                                                        # the old root; undo: cfctl ca rotate add"
    )]
    Rotate(RotateVerb),
}

/// The steps of a rotation that change the trust bundle and the certificates.
#[derive(Debug, Subcommand)]
pub enum RotateVerb {
    /// Add a root to the trust bundle, which is sent to every edge at once.
    #[command(after_long_help = "\
Examples:
  cfctl ca rotate add /media/safe/root.pem --wait --timeout 5m")]
    Add {
        /// The root's certificate, PEM, from `cframe-controller ca new-root`.
        #[arg(value_name = "ROOT")]
        file: PathBuf,
    },
    /// Renew the certificates that are from a CA that no longer signs.
    ///
    /// Connected edges are asked one after the other, and this context's own certificate is renewed.
    /// Offline edges renew when they reconnect, and other admins with their next command; both are listed.
    /// Exits 7 when an edge that was asked has no new certificate within --timeout.
    Renew,
    /// Remove a root from the trust bundle.
    ///
    /// Refused while certificates depend on it, or an edge is not known to have another root. --yes, or the
    /// answer to a question that says who is cut off, removes it nevertheless.
    Drop {
        /// SHA-256 of the root's public key: 64 hex digits, as in `ca status`.
        #[arg(value_parser = value::fingerprint)]
        fingerprint: Fingerprint,
    },
}
