//! Exit codes, as in all of cframe's programs.

use std::{fmt, process::ExitCode};

use cframe_protocol::{session::EnrollFailure, v1::ErrorCode};

use crate::local::AskError;

/// How a command ends when it doesn't succeed. 2 is clap's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    Error = 1,
    NotFound = 3,
    Conflict = 4,
    NotAllowed = 5,
    Unreachable = 6,
    Unhealthy = 7,
}

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

impl Exit {
    /// The code of an error, by the first in its chain that has one.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(code).unwrap_or(Self::Error)
    }
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
            EnrollFailure::Refused(refusal) => match refusal.code {
                ErrorCode::NotFound => Exit::NotFound,
                ErrorCode::Conflict => Exit::Conflict,
                ErrorCode::NotAllowed => Exit::NotAllowed,
                ErrorCode::Unavailable => Exit::Unreachable,
                ErrorCode::Invalid | ErrorCode::StoreFull | ErrorCode::Internal => Exit::Error,
            },
        });
    }
    None
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_code_is_found_under_context() {
        let error =
            Err::<(), _>(Coded::error(Exit::Conflict, "it runs")).context("down").unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Conflict);
        assert_eq!(Exit::of(&anyhow::anyhow!("plain")), Exit::Error);
        let error = anyhow::Error::new(AskError::NotRunning("/run/x".into()));
        assert_eq!(Exit::of(&error), Exit::Unreachable);
    }
}
