//! Why a request was refused.

use std::fmt;

use serde::{Deserialize, Serialize};

/// As text: the message, then `; ` and the hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    pub code: ErrorCode,
    /// What is wrong, with what value, and what to do next.
    pub message: String,
    /// A suggestion, such as `did you mean aws-hk?`.
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    /// A value breaks a rule.
    Invalid,
    NotFound,
    /// It exists already, or conflicts with something that exists.
    Conflict,
    NotAllowed,
    /// It may succeed later; the store has no leader, for example.
    Unavailable,
    /// The store's disk is full.
    StoreFull,
    /// A fault of the controller, whose log has details.
    Internal,
}

impl CallError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CallError {}
