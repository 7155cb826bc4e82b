//! A peer's identity in use by two processes.

use std::{net::SocketAddr, time::Instant};

/// A peer's identity is used by two processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Contested {
    /// When it was last seen.
    pub at: Instant,
    /// The address of the process that this edge refused; `None` if it is this process that the peer
    /// refused.
    pub refused: Option<SocketAddr>,
}

/// A link that waits for the end of the current one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contender {
    pub(crate) link: usize,
    /// ACK frames that the current link had received when it was asked for a sign of life.
    pub(crate) acks: u64,
}
