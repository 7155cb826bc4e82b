//! What a controller does without being asked, each in a task of its own.

pub(crate) mod certificate;
pub(crate) mod expiry;
pub(crate) mod journal;
pub mod presence;
pub(crate) mod registration;
pub(crate) mod rotation;
pub(crate) mod sweep;
pub(crate) mod trim;
