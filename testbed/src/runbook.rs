//! Runs the commands of a document as they are written.
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
//! - `host=` names the hosts on which a block runs, one after the other. The paragraph before the block must name them
//!   in bold, because a reader does not see the attribute. Blocks without attributes are not run.
//! - On each host a block is one `bash -euo pipefail`, which may take `within=`, by default 10 s. With `until=20s` it
//!   is repeated until it succeeds with the expected output.
//! - The lines of an `output` fence must occur in this order in the output of the block before it. `…` matches any
//!   text, and white space matches any white space.
//! - A `copy` fence copies files between hosts, with their modes. A target that ends with `/` is a directory.
//! - Each section with something to run states how many pings may be lost from its first command to its last:
//!   `<!-- lost: 0 -->`, or `any` if there is no traffic at that point.

mod expect;
mod parse;
mod run;

use std::time::Duration;

pub use parse::parse;
pub use run::{Report, Runner};

/// A part of the document below a heading of the second level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The line of its heading in the document.
    pub line: usize,
    pub title: String,
    /// How many pings may be lost; None for any number.
    pub max_lost: Option<usize>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The document's line of the first line of the block.
    pub line: usize,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Run(Commands),
    Copy(Vec<Copy>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// Where the script runs, one after the other.
    pub hosts: Vec<String>,
    /// For bash.
    pub script: String,
    pub timeout: Duration,
    /// Whether the script is repeated until it succeeds with the expected output.
    pub repeat: bool,
    /// Patterns of lines in its output.
    pub expected: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The document's line.
    pub line: usize,
    pub from: Place,
    pub to: Place,
}

/// A file on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    /// Absolute, or relative to root's home.
    pub path: String,
}
