//! A virtual internet made of Linux network namespaces, to run cframe's real programs in.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use cframe_testbed::{Lab, PathMtu, privilege};
//!
//! privilege::ensure()?;                                  // root, or a new user namespace
//! let mut lab = Lab::new("example")?;
//! let hk = lab.site("aws-hk").public("203.0.113.7/24").inner("172.30.0.0/16").build()?;
//! let idc = lab.site("idc").public("198.51.100.7/24").inner("10.60.6.0/24").build()?;
//!
//! let mut edge = hk.edge().spawn("edge-hk", hk.edge().command("cframe-edge"))?;
//! let target = idc.workload().address();
//! let ping = hk.workload().ping(target).interval(Duration::from_millis(10)).start()?;
//! hk.uplink().set_path_mtu(PathMtu::silent(1300))?;
//! edge.kill9()?;
//! println!("{}", ping.stop());
//! # Ok(())
//! # }                                                    // everything is removed here
//! ```
//!
//! All errors are [`anyhow`]'s: they are read in the output of a failed test, and no caller
//! distinguishes them.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
pub mod bench;
mod capture;
pub mod cli;
pub mod crash;
pub mod demo;
pub mod deployment;
pub mod etcd;
mod host;
pub mod http;
pub mod iperf;
pub mod lab;
pub mod load;
mod machine;
pub mod neighbours;
mod netns;
mod pcap;
mod ping;
pub mod privilege;
mod process;
mod procfs;
mod programs;
pub mod runbook;
mod signals;
mod sys;
mod tool;
pub mod units;
mod wait;
pub mod wan;

pub use capture::Capture;
pub use host::Host;
pub use lab::{Lab, Nat, PathMtu, PublicHost, Site, ThreeSites, Uplink, Wan};
pub use machine::Machine;
pub use netns::Netns;
pub use pcap::{Packet, Pcap};
pub use ping::{PingStats, Pinger};
pub use process::Process;
pub use programs::Programs;
pub use wait::wait_until;
pub use wan::WanPath;
