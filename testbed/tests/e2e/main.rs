//! The real programs in a virtual internet: what cframe promises, measured.
//!
//! Each test has its own lab. The tests need root or user namespaces, and the three programs in the build of the tests; they
//! fail if a prerequisite is missing, and name it. Figures are printed as `figure: …`, in passing tests too.

#![allow(clippy::unwrap_used, reason = "a test")]

mod addresses;
mod admission;
mod alone;
mod attacks;
mod changes;
mod cluster;
mod controller;
mod enrolment;
mod host;
mod hosts;
mod impostor;
mod initial;
mod lab;
mod paths;
mod restarts;
mod revocation;
mod rotation;
mod secrecy;
mod size;
mod traffic;
