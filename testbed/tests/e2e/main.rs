//! cframe's real programs in a virtual internet: what is promised, measured.
//!
//! Each test has a lab of its own. They need root, or user namespaces, and the release build of the three programs;
//! a missing prerequisite fails and says which. Figures are printed as `figure: …`, in passing tests too.

#![allow(clippy::unwrap_used, reason = "a test")]

mod addresses;
mod admission;
mod attacks;
mod blackhole;
mod changes;
mod cluster;
mod controller;
mod enrolment;
mod floods;
mod host;
mod impostor;
mod initial;
mod packets;
mod paths;
mod restarts;
mod revocation;
mod rotation;
mod secrecy;
mod size;
mod traffic;
mod world;
