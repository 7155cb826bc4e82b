//! How the program ends, and what it says when that is not well.

use std::{borrow::Cow, fmt, process::ExitCode};

use cframe_protocol::v1::{CallError, ErrorCode};

/// How the program ends. The numbers are a promise to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Something went wrong that has no number of its own.
    Error = 1,
    /// The command line is wrong, or lacks `--yes`.
    Usage = 2,
    /// No such thing.
    NotFound = 3,
    /// It is there already, or clashes with what is.
    Conflict = 4,
    /// The controller, or the certificate, says no.
    NotAllowed = 5,
    /// No controller answered.
    Unreachable = 6,
    /// The mesh has problems, or `--wait` ran out of time.
    Unhealthy = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: a line for people, a number for scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The number.
    pub exit: Exit,
    /// What is wrong, with what value.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// The same with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let exit = match error.code {
            ErrorCode::NotFound => Exit::NotFound,
            ErrorCode::Conflict => Exit::Conflict,
            ErrorCode::NotAllowed => Exit::NotAllowed,
            ErrorCode::Unavailable => Exit::Unreachable,
            ErrorCode::Invalid | ErrorCode::StoreFull | ErrorCode::Internal => Exit::Error,
        };
        Self { exit, message: error.message, hint: error.hint }
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

/// The text on one line and without control characters: parts of it come from other hosts, and a
/// terminal obeys what it is sent, and shows it in another order where it is told to.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let drives = |c: char| {
        let bidi = matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || bidi
    };
    if text.chars().any(drives) {
        let plain = |c: char| match c {
            '\n' | '\t' => ' ',
            c if drives(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        Cow::Owned(text.trim_end().chars().map(plain).collect())
    } else {
        Cow::Borrowed(text)
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
            assert_eq!(Failure::from(CallError::new(code, "x")).exit as u8, number, "{code:?}");
        }
        assert_eq!(
            [Exit::Done, Exit::Error, Exit::Usage, Exit::Unhealthy].map(|exit| exit as u8),
            [0, 1, 2, 7]
        );
    }

    #[test]
    fn a_chain_of_causes_is_one_line() {
        let error = anyhow::anyhow!("no such file").context("reading a.csr");
        assert_eq!(Failure::from(error).to_string(), "reading a.csr: no such file");
    }

    #[test]
    fn an_error_from_afar_cannot_drive_the_terminal() {
        let failure = Failure::new(Exit::Error, "a\u{1b}[2Jb\nc");
        assert_eq!(failure.to_string(), "a\u{fffd}[2Jb c");
        assert_eq!(printable("\u{9b}2J \u{202e}txt.exe"), "\u{fffd}2J \u{fffd}txt.exe");
    }
}
