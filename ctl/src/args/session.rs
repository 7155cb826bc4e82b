//! `cfctl context …` and `cfctl completion`

use std::path::PathBuf;

use cframe_pki::identity::Label;
use clap::{Subcommand, ValueEnum};

use crate::value;

pub(super) const COMPLETION_HELP: &str = "\
Examples:
  cfctl completion bash > /etc/bash_completion.d/cfctl
  cfctl completion zsh > \"${fpath[1]}/_cfctl\"
  cfctl completion fish > ~/.config/fish/completions/cfctl.fish";

/// What is done with contexts. Nothing here talks to a controller.
#[derive(Debug, Subcommand)]
pub enum ContextVerb {
    /// List the contexts of this machine.
    #[command(visible_alias = "ls")]
    List,
    /// Make a context the current one.
    #[command(after_long_help = "Examples:\n  cfctl context use corp")]
    Use {
        /// Context to use from now on.
        name: String,
    },
    /// Show a context; never its key.
    Show {
        /// Context to show [default: the current one].
        name: Option<String>,
    },
    /// Set the namespace that commands use without -n; an empty text for none.
    #[command(after_long_help = "Examples:\n  cfctl context set --default-namespace prod")]
    Set {
        /// Context to change [default: the current one].
        name: Option<String>,
        /// The namespace.
        #[arg(long, value_name = "NAME", value_parser = value::optional_label)]
        default_namespace: value::OptionalLabel,
    },
    /// Take over the contexts of a file that the controller or `admin add` has written.
    #[command(after_long_help = "\
Examples:
  cfctl context import admin.toml
  cfctl context import alice.toml --rename corp-alice")]
    Import {
        /// File to take from; - reads standard input.
        file: PathBuf,
        /// Name it gets here, if the file has one context.
        #[arg(long, value_name = "NAME", value_parser = value::label)]
        rename: Option<Label>,
        /// Replace a context of the same name.
        #[arg(long)]
        replace: bool,
    },
    /// Forget a context with its key.
    #[command(visible_aliases = ["delete", "rm"])]
    Del {
        /// Context to forget.
        name: String,
    },
}

/// Shells that completion is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
    /// Elvish.
    Elvish,
    /// PowerShell.
    Powershell,
}

impl From<CompletionShell> for clap_complete::Shell {
    fn from(shell: CompletionShell) -> Self {
        match shell {
            CompletionShell::Bash => Self::Bash,
            CompletionShell::Zsh => Self::Zsh,
            CompletionShell::Fish => Self::Fish,
            CompletionShell::Elvish => Self::Elvish,
            CompletionShell::Powershell => Self::PowerShell,
        }
    }
}
