//! `cfctl token …`, `cert …`, `admin …` and `trust …`

use std::{path::PathBuf, time::Duration};

use cframe_pki::{Fingerprint, Serial, identity::Label};
use clap::{ArgGroup, Args, Subcommand};

use crate::value;

#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token, and print the command that joins with it.
    ///
    /// Run the printed line on the gateway, which makes its key there. The token works once, for this
    /// edge, and is not shown again.
    #[command(
        visible_alias = "add",
        after_long_help = "\
Examples:
  cfctl token create --namespace prod --edge aws-hk --ttl 1h
  ssh aws-hk sudo \"$(cfctl token create -n prod --edge aws-hk --ttl 5m)\""
    )]
    Create(TokenCreate),
    /// List the tokens that can still be used, without their secrets.
    #[command(visible_alias = "ls")]
    List {
        /// List all namespaces, also when the context has one.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Revoke a token. An edge that has joined with it stays.
    #[command(after_long_help = "\
Examples:
  cfctl token revoke 5f0c7c1e9d3b4a86a2d1f4be0c9d7e21")]
    Revoke {
        /// The token's id, as in `token list`.
        id: String,
    },
}

#[derive(Args, Debug)]
pub struct TokenCreate {
    /// The gateway's edge.
    #[arg(long, value_name = "NAME", value_parser = value::label)]
    pub edge: Label,
    /// How long it works, at most 24h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = value::token_ttl)]
    pub ttl: Duration,
    /// For an edge that has joined before and lost its key, or whose certificate has expired.
    #[arg(long)]
    pub rejoin: bool,
}

#[derive(Debug, Subcommand)]
pub enum CertVerb {
    /// Issue a certificate for the signing request of a gateway that can't reach the controller yet.
    ///
    /// Writes two files into --out-dir: enrolled.json for `cframe-edge import`, with all that joining would
    /// have given the gateway, and the chain as cert.pem. The gateway's key never leaves it. Of the request
    /// only the public key is used.
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
        /// Only this edge's.
        #[arg(long, value_name = "NAME", value_parser = value::label)]
        edge: Option<Label>,
        /// List all namespaces, also when the context has one.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Show one certificate.
    Show {
        /// Serial: 32 hex digits, as in `cert list`.
        #[arg(value_parser = value::serial)]
        serial: Serial,
    },
    /// Have an edge renew its certificate now, with a new key.
    #[command(after_long_help = "Examples:\n  cfctl cert renew -n prod --edge aws-hk")]
    Renew {
        /// The edge.
        #[arg(long, value_name = "NAME", value_parser = value::label)]
        edge: Label,
    },
    /// Revoke a certificate, or with --edge all of an edge's. The edge's links close at once.
    ///
    /// This can't be undone. The edge stays configured: its gateway can join again with a token of
    /// `token create --rejoin`.
    #[command(after_long_help = "\
Examples:
  cfctl cert revoke 0a1b2c3d4e5f60718293a4b5c6d7e8f9 --reason 'key copied'
  cfctl cert revoke --edge aws-hk -n prod --yes")]
    Revoke(CertRevoke),
}

#[derive(Args, Debug)]
pub struct CertEnroll {
    /// File with the signing request, PEM or DER; - reads standard input.
    #[arg(long, value_name = "FILE")]
    pub csr: PathBuf,
    /// The gateway's edge.
    #[arg(long, value_name = "NAME", value_parser = value::label)]
    pub edge: Label,
    /// Directory for the files; created if missing.
    #[arg(long, value_name = "DIR")]
    pub out_dir: PathBuf,
}

#[derive(Args, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("which").required(true).args(["serial", "edge"])))]
pub struct CertRevoke {
    /// Serial: 32 hex digits, as in `cert list`.
    #[arg(value_parser = value::serial)]
    pub serial: Option<Serial>,
    /// All certificates of this edge.
    #[arg(long, value_name = "NAME", value_parser = value::label)]
    pub edge: Option<Label>,
    /// Reason, which `cert show` prints.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum AdminVerb {
    /// Add an admin, and write a context with a certificate for it.
    ///
    /// The key is made here and is only in the file, which has mode 0600. Hand it over in a safe way, for
    /// `cfctl context import`.
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
        /// May read, but not change anything.
        #[arg(long)]
        read_only: bool,
        /// New file for the context.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Remove an admin, and revoke its certificate at once.
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

#[derive(Debug, Subcommand)]
pub enum ControllerVerb {
    /// List the controllers, running or not.
    #[command(visible_alias = "ls")]
    List,
    /// Show one controller.
    Show {
        /// Controller to show.
        #[arg(value_parser = value::label)]
        name: Label,
    },
    /// Remove a controller for good, and revoke its certificates.
    ///
    /// It must have stopped. With --revoke-issuer it may still run, for example when an attacker has it:
    /// every certificate that it has signed stops working too.
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
        /// Revoke its issuing CAs too: edges with a certificate from them must join again.
        #[arg(long)]
        revoke_issuer: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// Let the edges follow the store as it is, after an older copy of it was put in its place.
    ///
    /// Edges never go back to an earlier state by themselves, so after that no change reaches them (`store-older` in
    /// `status`). If the newer store still exists, put it back instead: this makes the older one final.
    #[command(after_long_help = "\
Examples:
  cfctl store accept
  cfctl store accept --yes --wait")]
    Accept,
}

#[derive(Debug, Subcommand)]
pub enum TrustVerb {
    /// Show the root CAs and the revoked issuing CAs.
    #[command(visible_alias = "list", alias = "ls")]
    Show,
    /// Revoke an issuing CA: no certificate that it has signed works any more.
    ///
    /// For a controller that was broken into. Its edges must join again with another controller.
    Revoke {
        /// SHA-256 of the CA's public key: 64 hex digits.
        #[arg(value_parser = value::fingerprint)]
        fingerprint: Fingerprint,
    },
}
