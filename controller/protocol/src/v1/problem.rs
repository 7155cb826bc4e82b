//! What is wrong at an edge, as the edge reports it.

use cframe_pki::identity::Label;
use serde::{Deserialize, Serialize};

use crate::{frame::message, problem::Severity};

/// Edge → controller: all problems of the edge, whenever they change, at most once per second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    /// At most [`Problems::MAX`], the worst first.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: u32,
}

impl Problems {
    pub const MAX: usize = 32;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The name of a [`Code`](crate::problem::Code), or a code of a later version.
    pub code: Label,
    pub severity: Severity,
    /// A peer, prefix or device; empty if the problem is about the edge as a whole. At most
    /// [`Problem::MAX_ABOUT`] bytes.
    pub about: String,
    /// One sentence, at most [`Problem::MAX_TEXT`] bytes.
    pub text: String,
    /// What to do, if it is known: a command where possible. At most [`Problem::MAX_TEXT`] bytes.
    pub fix: Option<String>,
    /// When it started, in Unix seconds.
    pub since_unix: u64,
}

impl Problem {
    pub const MAX_ABOUT: usize = 128;
    pub const MAX_TEXT: usize = 512;
}

message!(Problems = 11);
