//! What a controller does by itself. Each module has a task.

pub(crate) mod certificate;
pub(crate) mod expiry;
pub(crate) mod journal;
pub(crate) mod membership;
pub mod presence;
pub(crate) mod probe;
pub(crate) mod registration;
pub(crate) mod rotation;
pub(crate) mod sweep;
pub(crate) mod trim;
