//! Decisions: what a call changes, as a transaction ([`draft::Draft`]) or a refusal. Functions of the
//! [state](crate::model::State); they run again when another controller changed what they read.

pub mod access;
pub(crate) mod admin;
pub(crate) mod ca;
pub mod call;
pub(crate) mod cert;
pub mod check;
pub(crate) mod controller;
pub mod draft;
pub(crate) mod edge;
pub(crate) mod issuing;
pub(crate) mod join;
pub(crate) mod names;
pub(crate) mod namespace;
pub(crate) mod problems;
pub(crate) mod registration;
pub(crate) mod route;
pub(crate) mod steps;
pub(crate) mod store;
pub(crate) mod token;

/// A count as in replies.
pub(crate) fn wire_count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
