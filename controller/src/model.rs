//! What is known of the mesh: the store's content in memory, with the indexes that decisions need, and what
//! follows from it. No clock, no I/O.

pub(crate) mod expiry;
pub mod log;
pub mod record;
pub(crate) mod standing;
pub(crate) mod trust;

mod difference;
mod namespace;
mod prefixes;
#[cfg(test)]
pub(crate) mod sample;
mod state;

pub use namespace::Namespace;
pub use prefixes::{Prefixes, Source};
pub use record::Stored;
pub use state::{Effects, LoadError, State};
