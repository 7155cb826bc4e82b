//! `cfctl ca …`

use std::path::PathBuf;

use cframe_pki::Fingerprint;
use clap::Subcommand;

use crate::value;

/// What is done with the CAs.
#[derive(Debug, Subcommand)]
pub enum CaVerb {
    /// Show the roots and the issuing CAs; with -o json the roots' certificates too.
    Show,
    /// Show how far a rotation is: who has which root, what hangs on each CA, and the next step.
    ///
    /// With --wait it returns once every edge has every root of the bundle, and exits 7 if that
    /// takes longer than --timeout.
    #[command(after_long_help = "\
Examples:
  cfctl ca status
  cfctl ca status --wait --timeout 5m
  cfctl ca status -o json | jq -r .next")]
    Status,
    /// Replace a root CA, step by step; each can be taken back.
    #[command(
        subcommand,
        after_long_help = "\
The steps, each when `cfctl ca status` says so:
  cframe-controller ca new-root --mesh NAME --out DIR   # anywhere, also offline
  cfctl ca rotate add DIR/root.pem --wait               # back: cfctl ca rotate drop
  cframe-controller ca renew --root DIR                 # on each controller's host; back: ca use
  cfctl ca rotate renew                                 # new certificates for all
  cfctl ca rotate drop 8e040b137bc2a8b41c4b038cd91f27ba45cd052caf05c67f6100ea138ad1bac7
                                                        # the old one; back: cfctl ca rotate add"
    )]
    Rotate(RotateVerb),
}

/// The steps of a rotation that are the trust bundle's and the certificates'.
#[derive(Debug, Subcommand)]
pub enum RotateVerb {
    /// Add a root to the trust bundle, which is pushed to every edge at once.
    #[command(after_long_help = "\
Examples:
  cfctl ca rotate add /media/safe/root.pem --wait --timeout 5m")]
    Add {
        /// The root's certificate, PEM, as `cframe-controller ca new-root` makes it.
        #[arg(value_name = "ROOT")]
        file: PathBuf,
    },
    /// Have everybody renew whose certificate is by a CA that signs no more.
    ///
    /// Edges that are connected are asked one after the other, and this context's own certificate is
    /// renewed. Edges that are offline renew when they come back, and other admins by any command of
    /// theirs; both are named. Exits 7 when an edge that was asked has no new certificate within
    /// --timeout.
    Renew,
    /// Remove a root from the trust bundle.
    ///
    /// Refused while somebody depends on it, or an edge is not known to have another; with --yes, or
    /// after a question that says who is cut off, it is removed all the same.
    Drop {
        /// SHA-256 of the root's public key: 64 hex digits, as `ca status` shows it.
        #[arg(value_parser = value::fingerprint)]
        fingerprint: Fingerprint,
    },
}
