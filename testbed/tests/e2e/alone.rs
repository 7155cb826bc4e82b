//! Tests that load the machine, or whose bounds need an idle one: each runs while no other test does.
//!
//! They are in one module because the harness starts tests in the order of their full names. Between a test that runs
//! alone and others, cores are idle until the last of the others has ended; this way that happens once.

mod blackhole;
mod cluster;
mod edits;
mod floods;
mod loss;
mod packets;
mod rotation;
mod slow_link;
