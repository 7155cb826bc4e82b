//! What a link keeps to send inner packets.

use std::time::{Duration, Instant};

use quinn_proto::Connection;

use crate::transport::MIN_MTU;

/// Inner packets of up to this many bytes fit every path, whatever headers are added.
const SMALL_PACKET: usize = 1100;
/// How often a small packet is sent alone among large ones. Four of these and a round trip are the
/// time to notice that a path's MTU has fallen.
const SMALL_PACKET_INTERVAL: Duration = Duration::from_millis(250);

pub(crate) struct Outgoing {
    /// Whether it is in the queue of links that may have something to send.
    pub(crate) ready: bool,
    /// Largest inner packet in bytes that one datagram carries whole.
    pub(crate) largest_inner: usize,
    /// Its part of the bytes in flight on all links, when last counted.
    pub(crate) counted: u64,
    /// Whether its packets have ECN marks.
    pub(crate) marked: bool,
    /// Whether the peer was asked for an acknowledgement.
    pub(crate) ack_requested: bool,
    /// Bytes that quinn-proto's send buffer has room for when it is empty.
    empty_buffer: usize,
    /// Whether a packet larger than [`SMALL_PACKET`] was sent since the last small one.
    large_sent: bool,
    next_small: Instant,
}

impl Outgoing {
    pub(super) fn new(conn: &mut Connection, now: Instant) -> Self {
        Self {
            ready: false,
            largest_inner: 0,
            counted: 0,
            marked: true,
            ack_requested: false,
            empty_buffer: conn.datagrams().send_buffer_space(),
            large_sent: false,
            next_small: now,
        }
    }

    /// To be called with the size of each packet that is sent whole.
    #[inline]
    pub(crate) fn record_packet(&mut self, len: usize) {
        self.large_sent |= len > SMALL_PACKET;
    }

    /// Whether a small packet must be sent alone now; if so, quinn-proto will send one.
    ///
    /// A path that drops large packets is detected by small ones that are acknowledged after them.
    /// Probe timeouts would send these, but every packet postpones the timeout (RFC 9002 §6.2.1): a
    /// steady stream of large packets alone would be lost in the black hole for ever.
    #[inline]
    pub(crate) fn small_packet_first(&mut self, conn: &mut Connection, now: Instant) -> bool {
        let due = self.large_sent && now >= self.next_small;
        if !due || !self.is_empty(conn) {
            return false;
        }
        self.large_sent = false;
        self.next_small = now + SMALL_PACKET_INTERVAL;
        conn.ping();
        true
    }

    /// Whether quinn-proto's send buffer is empty.
    #[inline]
    pub(super) fn is_empty(&self, conn: &mut Connection) -> bool {
        conn.datagrams().send_buffer_space() >= self.empty_buffer
    }

    /// How many datagrams of the path's MTU fit into one UDP payload that the kernel segments
    /// (`UDP_SEGMENT`).
    #[inline]
    pub(crate) fn segments_per_batch(&self) -> usize {
        const MAX_UDP_PAYLOAD: usize = 65_507;
        const OVERHEAD: usize = 64;
        (MAX_UDP_PAYLOAD / (self.largest_inner + OVERHEAD).max(usize::from(MIN_MTU))).max(1)
    }
}
