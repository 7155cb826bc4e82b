//! `cfctl token …`, `cert …`, `admin …` and `trust …`

use std::{path::PathBuf, time::Duration};

use cframe_pki::{Fingerprint, Serial, identity::Label};
use clap::{ArgGroup, Args, Subcommand};

use crate::value;

/// What is done with join tokens.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token, and print the command that joins with it.
    ///
    /// The line on standard output is to be run on the gateway, which makes its key there. The token
    /// works once, for this one edge, and is not shown again. With -o json it comes as an object.
    #[command(
        visible_alias = "add",
        after_long_help = "\
Examples:
  cfctl token create --namespace prod --edge aws-hk --ttl 1h
  ssh aws-hk sudo \"$(cfctl token create -n prod --edge aws-hk --ttl 5m)\""
    )]
    Create(TokenCreate),
    /// List the tokens that are not used up; never their secrets.
    #[command(visible_alias = "ls")]
    List {
        /// Of all namespaces, whatever the context's is.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Make a token useless. Edges that have joined stay.
    #[command(after_long_help = "\
Examples:
  cfctl token revoke 5f0c7c1e9d3b4a86a2d1f4be0c9d7e21")]
    Revoke {
        /// The token's id, as `token list` shows it.
        id: String,
    },
}

/// The arguments of `token create`.
#[derive(Args, Debug)]
pub struct TokenCreate {
    /// Edge that the gateway becomes.
    #[arg(long, value_name = "NAME", value_parser = value::label)]
    pub edge: Label,
    /// How long it can be used, at most 24h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = value::token_ttl)]
    pub ttl: Duration,
    /// For an edge that has joined before, and has lost its key or let its certificate expire.
    #[arg(long)]
    pub rejoin: bool,
}

/// What is done with certificates.
#[derive(Debug, Subcommand)]
pub enum CertVerb {
    /// Issue a certificate for a signing request of a gateway that can't reach the controller yet.
    ///
    /// Writes into --out-dir what joining would have given the gateway: enrolled.json, which
    /// `cframe-edge import` takes there, and the chain as cert.pem. The gateway's key never leaves
    /// it; only the public key of the request is used.
    #[command(after_long_help = "\
Examples:
  ssh aws-hk cframe-edge csr > aws-hk.csr
  cfctl cert enroll --csr aws-hk.csr -n prod --edge aws-hk --out-dir ./aws-hk
  ssh aws-hk cframe-edge import - < ./aws-hk/enrolled.json")]
    Enroll(CertEnroll),
    /// List certificates, the newest first.
    #[command(
        visible_alias = "ls",
        after_long_help = "\
Examples:
  cfctl cert list -n prod --edge aws-hk
  cfctl cert list -A -o json | jq '.[] | select(.state == \"valid\")'"
    )]
    List {
        /// Only those of this edge.
        #[arg(long, value_name = "NAME", value_parser = value::label)]
        edge: Option<Label>,
        /// Of all namespaces, whatever the context's is.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Show one certificate.
    Show {
        /// Serial: 32 hex digits, as `cert list` shows it.
        #[arg(value_parser = value::serial)]
        serial: Serial,
    },
    /// Have an edge renew its certificate now, with a new key.
    #[command(after_long_help = "Examples:\n  cfctl cert renew -n prod --edge aws-hk")]
    Renew {
        /// Edge that is to renew.
        #[arg(long, value_name = "NAME", value_parser = value::label)]
        edge: Label,
    },
    /// Revoke a certificate, or with --edge all that an edge has. Its links are cut at once.
    ///
    /// It can't be taken back. The edge stays configured: a token of `token create --rejoin` lets
    /// its gateway join again.
    #[command(after_long_help = "\
Examples:
  cfctl cert revoke 0a1b2c3d4e5f60718293a4b5c6d7e8f9 --reason 'key copied'
  cfctl cert revoke --edge aws-hk -n prod --yes")]
    Revoke(CertRevoke),
}

/// The arguments of `cert enroll`.
#[derive(Args, Debug)]
pub struct CertEnroll {
    /// Signing request, PEM or DER; - reads standard input.
    #[arg(long, value_name = "FILE")]
    pub csr: PathBuf,
    /// Edge that the gateway becomes.
    #[arg(long, value_name = "NAME", value_parser = value::label)]
    pub edge: Label,
    /// Directory for the files; made if missing.
    #[arg(long, value_name = "DIR")]
    pub out_dir: PathBuf,
}

/// The arguments of `cert revoke`.
#[derive(Args, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("which").required(true).args(["serial", "edge"])))]
pub struct CertRevoke {
    /// Serial: 32 hex digits, as `cert list` shows it.
    #[arg(value_parser = value::serial)]
    pub serial: Option<Serial>,
    /// All certificates of this edge.
    #[arg(long, value_name = "NAME", value_parser = value::label)]
    pub edge: Option<Label>,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// What is done with admins.
#[derive(Debug, Subcommand)]
pub enum AdminVerb {
    /// Add an admin, and write the context that makes its owner one.
    ///
    /// The key is made here and goes nowhere but into the file, which has mode 0600; hand it over
    /// on a safe way, for `cfctl context import`.
    #[command(
        visible_alias = "create",
        after_long_help = "\
Examples:
  cfctl admin add alice --out alice.toml
  cfctl admin add dashboard --read-only --out dashboard.toml"
    )]
    Add {
        /// Name: a DNS label of a-z, 0-9 and '-'.
        #[arg(value_parser = value::label)]
        name: Label,
        /// May look, but not change anything.
        #[arg(long)]
        read_only: bool,
        /// File to write the context to; must not exist.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Remove an admin; the certificate is revoked at once.
    #[command(visible_aliases = ["delete", "rm"])]
    Del {
        /// Admin to remove.
        #[arg(value_parser = value::label)]
        name: Label,
    },
    /// List the admins.
    #[command(visible_alias = "ls")]
    List,
}

/// What is done with controllers.
#[derive(Debug, Subcommand)]
pub enum ControllerVerb {
    /// List the controllers, and which of them run.
    #[command(visible_alias = "ls")]
    List,
    /// Show one controller.
    Show {
        /// Its name.
        #[arg(value_parser = value::label)]
        name: Label,
    },
    /// Remove a controller that is gone for good. Its certificates are revoked.
    ///
    /// It must have stopped. With --revoke-issuer it may still run, in other hands perhaps: all that its
    /// CA has signed is cut off with it.
    #[command(
        visible_aliases = ["delete", "rm"],
        after_long_help = "\
Examples:
  cfctl controller del ctl-2
  cfctl controller del ctl-2 --revoke-issuer --yes"
    )]
    Del {
        /// Controller to remove.
        #[arg(value_parser = value::label)]
        name: Label,
        /// Cut off all its issuing CAs too: edges that enrolled or renewed with them have to join again.
        #[arg(long)]
        revoke_issuer: bool,
    },
}

/// What is done with the trust bundle.
#[derive(Debug, Subcommand)]
pub enum TrustVerb {
    /// Show the root CAs and the issuing CAs that are cut off.
    #[command(visible_alias = "list", alias = "ls")]
    Show,
    /// Cut off an issuing CA: no certificate that it signed works any more, anywhere.
    ///
    /// For a controller that was broken into. Enrol its edges again with another controller.
    Revoke {
        /// SHA-256 of the CA's public key: 64 hex digits.
        #[arg(value_parser = value::fingerprint)]
        fingerprint: Fingerprint,
    },
}
