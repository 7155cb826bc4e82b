//! WAN emulation: delay, jitter, loss, reordering, duplication, a bottleneck and an MTU between two
//! links of a lab's internet, for each direction.
//!
//! The emulator is a process in the router's namespace (`testbed wan run`) that serves a socket in
//! the lab's directory. It is started at the first request and ends with the lab. The kernel routes
//! the packets of each direction with conditions through a TUN device of that direction, and
//! forwards all others by itself.

mod bottleneck;
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

pub(crate) use client::{send_or_start, send_request};
pub(crate) use devices::device;
pub(crate) use protocol::{Link, Links, Request, write_links};
pub(crate) use server::run as run_emulator;
