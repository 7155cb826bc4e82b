//! Each module of the crate against a slow, plain model of it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod build;
mod coalesce;
mod fragment;
mod mss;
mod parse;
mod split;
