//! How a program ends.

use std::process::ExitCode;

use cframe_protocol::v1::ErrorCode;

/// Exit codes of all three programs. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// An error without a number of its own.
    Error = 1,
    /// The command line is wrong, or lacks `--yes`. clap exits with the same number.
    Usage = 2,
    NotFound = 3,
    /// It exists already, is in use, or clashes with something.
    Conflict = 4,
    NotAllowed = 5,
    /// No controller, or no running edge, answers.
    Unreachable = 6,
    /// The mesh or the host has problems, or `--wait` timed out.
    Unhealthy = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<ErrorCode> for Exit {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Conflict => Self::Conflict,
            ErrorCode::NotAllowed => Self::NotAllowed,
            ErrorCode::Unavailable => Self::Unreachable,
            ErrorCode::Invalid | ErrorCode::StoreFull | ErrorCode::Internal => Self::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_a_controller_has_its_exit_code() {
        for (code, number) in [
            (ErrorCode::Invalid, 1),
            (ErrorCode::NotFound, 3),
            (ErrorCode::Conflict, 4),
            (ErrorCode::NotAllowed, 5),
            (ErrorCode::Unavailable, 6),
            (ErrorCode::StoreFull, 1),
            (ErrorCode::Internal, 1),
        ] {
            assert_eq!(Exit::from(code) as u8, number, "{code:?}");
        }
        assert_eq!(
            [Exit::Done, Exit::Error, Exit::Usage, Exit::Unhealthy].map(|exit| exit as u8),
            [0, 1, 2, 7]
        );
    }
}
