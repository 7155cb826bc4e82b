//! Links between cores in virtual time, with real TLS.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Duration;

mod certificates;
mod dialling;
mod floods;
mod lifecycle;
mod network;
mod path;
mod roots;
mod trust;
mod wire;

const SECOND: Duration = Duration::from_secs(1);
