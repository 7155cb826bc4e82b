//! The core of an edge: links to its peers on `quinn-proto`, the prefix table, the verdict about
//! every packet, and the path of packets between the TUN and the links.
//!
//! It has no clock, no socket and no task. Time, bytes and desired state come in as arguments;
//! datagrams, packets and events come out. So it runs the same in the edge's loop, in a test
//! without root, and in a simulation of many edges. Start with [`Mesh`]: its documentation says
//! which calls to make, and in which order.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

pub mod probe;
pub mod table;

mod admission;
mod config;
mod congestion;
mod connection_id;
mod counters;
mod link;
mod mesh;
mod peer;
mod queue;
mod timers;
mod transport;
mod verdict;

pub use config::{Config, ConfigError, Congestion, Crypto, EndpointKeys, Offload};
pub use counters::{Counters, Reason};
pub use link::{PathQuality, Traffic};
pub use mesh::{Event, LinkStatus, Load, Mesh, Received};
pub use peer::{Attempt, Contested, Dialling, Down, Probed, Refused, SendError, Side, Why};
pub use quinn_proto::{
    EcnCodepoint, Transmit,
    crypto::{ClientConfig as ClientCrypto, ServerConfig as ServerCrypto},
};
