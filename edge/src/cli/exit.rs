//! The exit codes of errors.

use std::fmt;

use cframe_console::exit::Exit;
use cframe_protocol::session::EnrollFailure;

use crate::local::AskError;

/// An error with its exit code.
#[derive(Debug)]
pub(super) struct Coded {
    pub(super) exit: Exit,
    pub(super) text: String,
}

impl Coded {
    pub(super) fn error(exit: Exit, text: impl Into<String>) -> anyhow::Error {
        Self { exit, text: text.into() }.into()
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Coded {}

/// The exit code of the first error in the chain that has one.
pub(super) fn exit_code(error: &anyhow::Error) -> Exit {
    error.chain().find_map(code).unwrap_or(Exit::Error)
}

fn code(error: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(coded) = error.downcast_ref::<Coded>() {
        return Some(coded.exit);
    }
    if let Some(error) = error.downcast_ref::<AskError>() {
        return Some(match error {
            AskError::NotAllowed(_) => Exit::NotAllowed,
            AskError::NotRunning(_) | AskError::Failed(..) => Exit::Unreachable,
            AskError::Refused(_) => Exit::Error,
        });
    }
    if let Some(error) = error.downcast_ref::<EnrollFailure>() {
        return Some(match error {
            EnrollFailure::Address(_) => Exit::Error,
            EnrollFailure::Unreachable(_) | EnrollFailure::Unanswered(_) => Exit::Unreachable,
            EnrollFailure::Refused(refusal) => refusal.code.into(),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_code_is_found_under_context() {
        let error =
            Err::<(), _>(Coded::error(Exit::Conflict, "it runs")).context("down").unwrap_err();
        assert_eq!(exit_code(&error), Exit::Conflict);
        assert_eq!(exit_code(&anyhow::anyhow!("plain")), Exit::Error);
        let error = anyhow::Error::new(AskError::NotRunning("/run/x".into()));
        assert_eq!(exit_code(&error), Exit::Unreachable);
    }
}
