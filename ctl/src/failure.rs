//! Why a command failed.

use std::fmt;

use cframe_console::exit::Exit;
use cframe_protocol::{text::printable, v1::CallError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    /// What is wrong, with what value.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self { exit: error.code.into(), message: error.message, hint: error.hint }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Error, format!("{error:#}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.message))
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_causes_is_one_line() {
        let error = anyhow::anyhow!("no such file").context("reading a.csr");
        assert_eq!(Failure::from(error).to_string(), "reading a.csr: no such file");
    }

    #[test]
    fn an_error_from_another_host_cannot_control_the_terminal() {
        let failure = Failure::new(Exit::Error, "a\u{1b}[2Jb\nc");
        assert_eq!(failure.to_string(), "a\u{fffd}[2Jb c");
    }
}
