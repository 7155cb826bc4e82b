//! WAN emulation: delay, jitter, loss, reordering, duplication, a bottleneck and an MTU between two
//! links of a lab's internet, in each direction.
//!
//! The emulator is a process of its own in the router's namespace (`testbed wan run`), told what to
//! do over a socket in the lab's directory. It is started when it is first needed, and ends with the
//! lab. Of each direction that has conditions the kernel sends the packets through a TUN device,
//! super-packets whole; all others it forwards by itself.

mod bottleneck;
pub mod cli;
mod client;
mod counters;
mod devices;
mod direction;
mod emulator;
mod icmp;
mod loss;
mod notation;
mod path;
mod protocol;
mod random;
mod server;

pub use counters::WanCounters;
pub use path::WanPath;
pub use protocol::WanStatus;

pub(crate) use client::{ask, start};
pub(crate) use devices::device;
pub(crate) use protocol::{Link, Links, Request, write_links};
