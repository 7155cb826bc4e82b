//! The grammar of the command line: noun, then verb.

mod audit;
mod ca;
mod edge;
mod identity;
mod namespace;
mod session;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use cframe_pki::identity::Label;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::value;

pub use audit::AuditArgs;
pub use ca::{CaVerb, RotateVerb};
pub use edge::{EdgeAdd, EdgeSet, EdgeVerb, RouteAdd, RouteVerb};
pub use identity::{
    AdminVerb, CertEnroll, CertRevoke, CertVerb, ControllerVerb, StoreVerb, TokenCreate, TokenVerb,
    TrustVerb,
};
pub use namespace::{CongestionName, NamespaceAdd, NamespaceSet, NamespaceVerb};
pub use session::ContextVerb;

/// Manage a cframe mesh: its namespaces, edges, routes, and who may join.
///
/// A command is a noun and a verb, and calls a controller of the current context. Answers go to standard
/// output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(
    name = "cfctl",
    version,
    disable_help_subcommand = true,
    after_long_help = AFTER_HELP,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Format of answers.
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    pub output: Format,

    /// Namespace [default: the context's].
    #[arg(short, long, global = true, value_name = "NAME", value_parser = value::label)]
    pub namespace: Option<Label>,

    /// Context [default: the current one].
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,

    /// File with the contexts [default: ~/.config/cframe/config.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How long to try, such as 500ms, 10s or 1m30s.
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s",
          value_parser = value::duration)]
    pub timeout: Duration,

    /// Have the controller check the change without making it.
    #[arg(long, global = true)]
    pub dry_run: bool,

    /// Don't ask before breaking traffic.
    #[arg(short, long, global = true)]
    pub yes: bool,

    /// After a change, wait until every connected edge has it; exit 7 after --timeout.
    #[arg(long, global = true)]
    pub wait: bool,

    /// Print only warnings and errors on standard error.
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Log to standard error; -vv logs every detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// When to use colours; with auto, NO_COLOR in the environment turns them off.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people and awk.
    Table,
    /// The table with all columns.
    Wide,
    /// An array for a list, an object for one thing. The names are stable.
    Json,
    /// The same objects as YAML.
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal.
    Auto,
    /// Also in files and pipes.
    Always,
    /// Without colours.
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Mesh(MeshCommand),
    /// Meshes that this machine can manage: their controllers, and an admin's certificate.
    #[command(subcommand, visible_alias = "ctx", alias = "contexts")]
    Context(ContextVerb),
    /// Print a completion script for a shell.
    #[command(after_long_help = session::COMPLETION_HELP)]
    Completion {
        /// The shell.
        shell: Shell,
    },
}

/// Commands that call a controller.
#[derive(Debug, Subcommand)]
pub enum MeshCommand {
    /// Tenants. Edges, routes and tokens belong to one, and no traffic crosses between two.
    #[command(subcommand, visible_alias = "ns", alias = "namespaces")]
    Namespace(NamespaceVerb),
    /// Gateways, each at the border of one site.
    #[command(subcommand, alias = "edges")]
    Edge(EdgeVerb),
    /// More networks behind an edge, such as pods and services.
    #[command(subcommand, visible_alias = "ro", alias = "routes")]
    Route(RouteVerb),
    /// Join tokens. Each lets a gateway join once, as one edge.
    #[command(subcommand, alias = "tokens")]
    Token(TokenVerb),
    /// Certificates of edges, admins and controllers.
    #[command(subcommand, alias = "certs")]
    Cert(CertVerb),
    /// Who may use cfctl.
    #[command(subcommand, alias = "admins")]
    Admin(AdminVerb),
    /// The mesh's controllers, running or not.
    #[command(subcommand, alias = "controllers")]
    Controller(ControllerVerb),
    /// The mesh's root CAs, and revoked issuing CAs.
    #[command(subcommand)]
    Trust(TrustVerb),
    /// Root and issuing CAs, their certificates, and the rotation of a root.
    #[command(subcommand)]
    Ca(CaVerb),
    /// The controllers' store.
    #[command(subcommand)]
    Store(StoreVerb),
    /// Show the health of the mesh; exit 7 when traffic that should pass does not.
    ///
    /// Shows the controllers, and for each namespace how many edges are online, how many of those have
    /// the newest state, and how many links are up. Then it lists the problems.
    #[command(after_long_help = "Examples:\n  cfctl status\n  cfctl status -o json | jq .problems")]
    Status,
    /// Show who did what, when, from where, and with what result; the newest last.
    ///
    /// Every call that changes something, every certificate that is issued, every backup, and every call
    /// that was not allowed has a record, which the controllers keep for a time. Reading leaves no record.
    #[command(after_long_help = audit::AUDIT_HELP)]
    Audit(AuditArgs),
    /// Show the versions of cfctl and, with a context, of the controller.
    Version {
        /// Only the version of cfctl.
        #[arg(long)]
        client: bool,
    },
}

const AFTER_HELP: &str = "\
Examples:
  cfctl namespace add prod
  cfctl edge add aws-hk --namespace prod --cidr 172.30.0.0/16 --endpoint 203.0.113.7:58423
  cfctl token create --namespace prod --edge aws-hk --ttl 1h
  cfctl route add pods-hk --namespace prod --cidr 10.244.0.0/16 --edge aws-hk
  cfctl edge list -o wide
  cfctl status";
