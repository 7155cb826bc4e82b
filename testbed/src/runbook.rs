//! A document whose commands are run as they stand.
//!
//! ````markdown
//! ## Make a namespace
//! <!-- lost: 0 -->
//!
//! On **operator**:
//!
//! ```sh host=operator within=5s
//! cfctl namespace add prod
//! cfctl namespace list
//! ```
//! ```output
//! NAME …
//! prod …
//! ```
//!
//! ```copy
//! operator:aws-hk.join aws-hk:join
//! ```
//! ````
//!
//! - `host=` names the hosts on which a block runs, one after the other; the text right before the block has to
//!   name them too, for that is what a reader sees. Blocks without it are not run.
//! - A block is one `bash -euo pipefail` with its time, `within=` or 10 s, on each host. With `until=20s` it is run
//!   again until it succeeds and its output is as expected.
//! - The lines of an `output` fence occur in this order in what the block before it printed. `…` stands for
//!   anything, and any white space for any other.
//! - A `copy` fence copies files between hosts, with their modes. What ends with `/` is a directory.
//! - Each section with something to run says how many pings may be lost from its first command to its
//!   last: `<!-- lost: 0 -->`, or `any` where there is no traffic yet or no more.

mod expect;
mod parse;
mod run;

use std::time::Duration;

pub use parse::parse;
pub use run::{Report, Runner};

/// A part of the document, from its heading of the second level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Where it begins.
    pub line: usize,
    /// Its heading.
    pub title: String,
    /// How many pings may be lost in it; any number without.
    pub lost: Option<usize>,
    /// What is run.
    pub steps: Vec<Step>,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line of the document that its first line is.
    pub line: usize,
    /// What it does.
    pub action: Action,
}

/// What a block does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Commands.
    Run(Commands),
    /// Files go from host to host.
    Copy(Vec<Copy>),
}

/// A script, where it runs, and what comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// On these, in turn.
    pub hosts: Vec<String>,
    /// For bash.
    pub script: String,
    /// How long it may take.
    pub within: Duration,
    /// Whether it is run again until it is well.
    pub until: bool,
    /// Lines that it prints.
    pub expected: Vec<String>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The document's line.
    pub line: usize,
    /// Whence.
    pub from: Place,
    /// Whither.
    pub to: Place,
}

/// A file on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The host.
    pub host: String,
    /// Absolute, or below root's home.
    pub path: String,
}
