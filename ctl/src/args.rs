//! The grammar of the command line: noun, then verb.
//!
//! Every flag has an environment variable by one rule, `CFRAME_` and the flag's name in upper case
//! with `_` for `-`; [`command`] applies it, so that no flag can be without.

mod audit;
mod ca;
mod edge;
mod identity;
mod namespace;
mod session;
#[cfg(test)]
mod tests;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use cframe_pki::identity::Label;
use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::BoolishValueParser,
};

use crate::value;

pub use audit::AuditArgs;
pub use ca::{CaVerb, RotateVerb};
pub use edge::{EdgeAdd, EdgeSet, EdgeVerb, RouteAdd, RouteVerb};
pub use identity::{
    AdminVerb, CertEnroll, CertRevoke, CertVerb, ControllerVerb, TokenCreate, TokenVerb, TrustVerb,
};
pub use namespace::{CongestionName, NamespaceAdd, NamespaceSet, NamespaceVerb};
pub use session::{CompletionShell, ContextVerb};

/// Manage a cframe mesh: its namespaces, edges, routes, and who may join.
///
/// Commands are a noun and a verb, and talk to a controller of the current context. What a command
/// answers goes to standard output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(
    name = "cfctl",
    version,
    disable_help_subcommand = true,
    after_long_help = AFTER_HELP,
    max_term_width = 100
)]
pub struct Cli {
    /// Flags that every command has.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Format of the answer.
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    pub output: Format,

    /// Namespace [default: that of the context].
    #[arg(short, long, global = true, value_name = "NAME", value_parser = value::label)]
    pub namespace: Option<Label>,

    /// Context to use instead of the current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,

    /// File of the contexts [default: ~/.config/cframe/config.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How long to try before giving up, such as 500ms, 10s or 1m30s.
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s",
          value_parser = value::duration)]
    pub timeout: Duration,

    /// Have the controller check the change, and change nothing.
    #[arg(long, global = true)]
    pub dry_run: bool,

    /// Do what breaks traffic without asking.
    #[arg(short, long, global = true)]
    pub yes: bool,

    /// After a change, wait until every connected edge has it; exit 7 if that takes over --timeout.
    #[arg(long, global = true)]
    pub wait: bool,

    /// Nothing on standard error but warnings and errors.
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Log what happens on standard error; -vv for every detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// When to use colour; NO_COLOR in the environment means never.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, for people and awk.
    Table,
    /// The table with every column.
    Wide,
    /// JSON, stable: an array for a list, an object for one thing.
    Json,
    /// The same as YAML.
    Yaml,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal.
    Auto,
    /// Also in files and pipes.
    Always,
    /// Not at all.
    Never,
}

/// What is asked of this machine or of a mesh.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What concerns the mesh.
    #[command(flatten)]
    Mesh(MeshCommand),
    /// Meshes that this machine can manage, as whom and through which controllers.
    #[command(subcommand, visible_alias = "ctx", alias = "contexts")]
    Context(ContextVerb),
    /// Print a shell's completion script.
    #[command(after_long_help = session::COMPLETION_HELP)]
    Completion {
        /// Shell to complete in.
        shell: CompletionShell,
    },
}

/// What is asked of a controller: the nouns, and the verbs without one.
#[derive(Debug, Subcommand)]
pub enum MeshCommand {
    /// Tenants: edges, routes and tokens belong to one, and nothing crosses its border.
    #[command(subcommand, visible_alias = "ns", alias = "namespaces")]
    Namespace(NamespaceVerb),
    /// Gateways: each stands at the border of one site.
    #[command(subcommand, alias = "edges")]
    Edge(EdgeVerb),
    /// More networks behind an edge, such as pods and services.
    #[command(subcommand, visible_alias = "ro", alias = "routes")]
    Route(RouteVerb),
    /// Join tokens: each lets one gateway become one edge, once.
    #[command(subcommand, alias = "tokens")]
    Token(TokenVerb),
    /// Certificates of edges, admins and controllers.
    #[command(subcommand, alias = "certs")]
    Cert(CertVerb),
    /// Who may use cfctl.
    #[command(subcommand, alias = "admins")]
    Admin(AdminVerb),
    /// The controllers, those that don't run too.
    #[command(subcommand, alias = "controllers")]
    Controller(ControllerVerb),
    /// The mesh's root CAs, and issuing CAs that are cut off.
    #[command(subcommand)]
    Trust(TrustVerb),
    /// The roots and issuing CAs, what hangs on each, and the rotation of a root.
    #[command(subcommand)]
    Ca(CaVerb),
    /// How the mesh is; exits 7 when it has problems.
    ///
    /// Shows the controllers, and per namespace how many edges are online, have the newest state,
    /// and how many of the links stand. Problems are listed below.
    #[command(after_long_help = "Examples:\n  cfctl status\n  cfctl status -o json | jq .problems")]
    Status,
    /// Who did what, when, from where, and how it ended; the newest last.
    ///
    /// Every call that changes something, every certificate that is issued, every backup, and every call
    /// that was not allowed has a record, as long as the controllers keep it. Calls that only look have none.
    #[command(after_long_help = audit::AUDIT_HELP)]
    Audit(AuditArgs),
    /// Versions of cfctl and, with a context, of the controller.
    Version {
        /// Don't ask the controller.
        #[arg(long)]
        client: bool,
    },
}

const AFTER_HELP: &str = "\
Environment:
  Every flag has a variable: CFRAME_ and its name, such as CFRAME_NAMESPACE or CFRAME_DRY_RUN.
  A flag beats the environment, which beats the context, which beats the default.

Exit codes:
  0 done          3 not found      6 no controller reachable
  1 error         4 conflict       7 unhealthy, or --wait ran out of time
  2 usage         5 not allowed

Examples:
  cfctl namespace add prod
  cfctl edge add aws-hk --namespace prod --cidr 172.30.0.0/16 --endpoint 203.0.113.7:58423
  cfctl token create --namespace prod --edge aws-hk --ttl 1h
  cfctl route add pods-hk --namespace prod --cidr 10.244.0.0/16 --edge aws-hk
  cfctl edge list -o wide
  cfctl status";

/// The grammar as clap has it, for parsing and for completion scripts.
pub fn command() -> clap::Command {
    with_environment(Cli::command())
}

/// Parses the arguments, the program's name first.
///
/// # Errors
/// clap's: usage errors, and the requests for help and version.
pub fn parse<I, T>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let matches = command().try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

/// Gives every flag its variable, hidden in the help, which states the rule once.
fn with_environment(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let Some(long) = arg.get_long() else {
                return arg;
            };
            let variable = format!("CFRAME_{}", long.replace('-', "_").to_uppercase());
            let switch = matches!(arg.get_action(), clap::ArgAction::SetTrue);
            let arg = arg.env(variable).hide_env(true);
            if switch { arg.value_parser(BoolishValueParser::new()) } else { arg }
        })
        .mut_subcommands(with_environment)
}
