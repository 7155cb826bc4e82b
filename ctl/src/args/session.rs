//! `cfctl context …` and `cfctl completion`

use std::path::PathBuf;

use cframe_pki::identity::Label;
use clap::Subcommand;

use crate::value;

pub(super) const COMPLETION_HELP: &str = "\
Examples:
  cfctl completion bash > /etc/bash_completion.d/cfctl
  cfctl completion zsh > \"${fpath[1]}/_cfctl\"
  cfctl completion fish > ~/.config/fish/completions/cfctl.fish";

/// None of these calls a controller.
#[derive(Debug, Subcommand)]
pub enum ContextVerb {
    /// List the contexts.
    #[command(visible_alias = "ls")]
    List,
    /// Make a context the current one.
    #[command(after_long_help = "Examples:\n  cfctl context use corp")]
    Use {
        /// Context to use.
        name: String,
    },
    /// Show a context, without its key.
    Show {
        /// Context to show [default: the current one].
        name: Option<String>,
    },
    /// Set the namespace for commands without -n.
    #[command(after_long_help = "Examples:\n  cfctl context set --default-namespace prod")]
    Set {
        /// Context to change [default: the current one].
        name: Option<String>,
        /// The namespace; an empty text removes it.
        #[arg(long, value_name = "NAME", value_parser = value::optional_label)]
        default_namespace: value::OptionalLabel,
    },
    /// Import the contexts of a file that the controller or `admin add` wrote.
    #[command(after_long_help = "\
Examples:
  cfctl context import admin.toml
  cfctl context import alice.toml --rename corp-alice")]
    Import {
        /// The file; - reads standard input.
        file: PathBuf,
        /// New name, when the file has one context.
        #[arg(long, value_name = "NAME", value_parser = value::label)]
        rename: Option<Label>,
        /// Replace a context of the same name.
        #[arg(long)]
        replace: bool,
    },
    /// Remove a context with its key.
    #[command(visible_aliases = ["delete", "rm"])]
    Del {
        /// Context to remove.
        name: String,
    },
}
