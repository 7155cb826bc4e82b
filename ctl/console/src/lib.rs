//! What the three programs share on the command line: one variable per flag, exit codes, standard
//! output, and the log on standard error.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod args;
pub mod exit;
pub mod log;
pub mod output;
