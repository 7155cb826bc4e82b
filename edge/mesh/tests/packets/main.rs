//! The packet engine against slow, plain models of what it does.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod build;
mod clamp;
mod coalesce;
mod fragment;
mod parse;
mod split;
mod table;
