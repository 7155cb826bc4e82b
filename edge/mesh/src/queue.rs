//! Inner packets that wait for a link: fair among flows, never for long, bounded.
//!
//! The TUN gives no back-pressure, so it is always read, and packets that can't be sent at once
//! wait here. The scheme is FQ-CoDel (RFC 8290): each flow has a queue of its own, the flows take
//! turns by bytes (deficit round robin), a new flow goes first, and a flow whose packets wait too
//! long has some dropped, or marked if it supports ECN. So a bulk flow fills only its own queue,
//! and a ping or a DNS query passes it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use cframe_packet::{
    ecn::{Ecn, set_ce},
    split::Packets,
};

mod codel;

use codel::{Codel, CodelConfig};

/// Bytes that may wait on one link: a few milliseconds at full speed.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that each read of the TUN counts in addition, for its memory.
const READ_OVERHEAD: usize = 128;
/// The longest wait, also of a flow that does not react to drops: a packet that comes later than
/// its retransmission is only load.
const MAX_AGE: Duration = Duration::from_millis(100);
/// The values of RFC 8290 §5.2.
const CODEL: CodelConfig =
    CodelConfig { target: Duration::from_millis(5), interval: Duration::from_millis(100) };
/// Bytes that a flow may send in its turn: small compared with a batch of 64 KiB, so that flows
/// mix, but several packets, so that the other end can merge them.
const QUANTUM: isize = 6000;
/// Capacity, in reads, that an unused place in `flows` may keep.
const MAX_IDLE_CAPACITY: usize = 64;
/// Hash slots. Flows with the same slot share a queue.
const SLOTS: usize = 256;

/// The queue of one link.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    flows: Vec<Flow>,
    /// Unused places in `flows`.
    free: Vec<u16>,
    /// Flows in their first turn, and the others in the order of their turns.
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    /// For each hash slot the index in `flows`, plus one. `None` for idle links.
    slots: Option<Box<[u16; SLOTS]>>,
    bytes: usize,
}

/// The number of packets that were dropped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Because the queue was full.
    pub(crate) full: u64,
    /// Because they waited too long.
    pub(crate) old: u64,
}

#[derive(Debug, Default)]
struct Flow {
    reads: VecDeque<(Instant, Packets)>,
    bytes: usize,
    deficit: isize,
    slot: usize,
    codel: Codel,
}

impl Queue {
    /// Adds the packets of one read of the TUN to the flow with this hash. If the queue is full,
    /// the oldest packets of the longest flow are dropped.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        hash: u64,
        packets: Packets,
        dropped: &mut Dropped,
    ) {
        let index = self.flow_index(hash);
        let flow = &mut self.flows[usize::from(index)];
        dropped.old += flow.expire(now, &mut self.bytes);
        let bytes = packets.bytes() + READ_OVERHEAD;
        flow.bytes += bytes;
        flow.reads.push_back((now, packets));
        self.bytes += bytes;
        while self.bytes > MAX_BYTES {
            let Some(longest) = self.flows.iter_mut().max_by_key(|flow| flow.bytes) else { return };
            dropped.full += longest.drop_read(&mut self.bytes);
        }
    }

    /// Removes the next packet.
    pub(crate) fn pop(&mut self, now: Instant, dropped: &mut Dropped) -> Option<Bytes> {
        loop {
            let is_new = !self.new.is_empty();
            let list = if is_new { &mut self.new } else { &mut self.old };
            let index = *list.front()?;
            let flow = &mut self.flows[usize::from(index)];
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                list.pop_front();
                self.old.push_back(index);
                continue;
            }
            if let Some(packet) = flow.pop(now, &mut self.bytes, dropped) {
                if self.bytes == 0 {
                    self.end_all_turns();
                }
                return Some(packet);
            }
            list.pop_front();
            // A new flow that is empty now must not count as new again with its next packet.
            if is_new && !self.old.is_empty() {
                self.old.push_back(index);
            } else {
                self.remove_flow(index);
            }
        }
    }

    /// Drops packets that have waited too long, and returns their number; for a link that can't
    /// send.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        self.flows.iter_mut().map(|flow| flow.expire(now, &mut self.bytes)).sum()
    }

    /// Bytes that wait, including [`READ_OVERHEAD`].
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Empties the queue and returns the number of packets dropped.
    pub(crate) fn clear(&mut self) -> u64 {
        let count = self.flows.iter().flat_map(|flow| &flow.reads);
        let count = count.map(|(_, packets)| packets.len() as u64).sum();
        *self = Self::default();
        count
    }

    /// The index of the hash's flow, which is then in one of the lists.
    fn flow_index(&mut self, hash: u64) -> u16 {
        let slot = hash as usize % SLOTS;
        let place = &mut self.slots.get_or_insert_with(|| Box::new([0; SLOTS]))[slot];
        if let Some(index) = place.checked_sub(1) {
            return index;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.flows.push(Flow::default());
            (self.flows.len() - 1) as u16
        });
        *place = index + 1;
        let flow = &mut self.flows[usize::from(index)];
        flow.slot = slot;
        flow.deficit = QUANTUM;
        flow.codel = Codel::default();
        self.new.push_back(index);
        index
    }

    /// Removes all flows; they must be empty.
    fn end_all_turns(&mut self) {
        while let Some(index) = self.new.pop_front().or_else(|| self.old.pop_front()) {
            self.remove_flow(index);
        }
    }

    /// Frees the place of a flow that is empty and in no list.
    fn remove_flow(&mut self, index: u16) {
        let flow = &mut self.flows[usize::from(index)];
        if let Some(slots) = &mut self.slots {
            slots[flow.slot] = 0;
        }
        if flow.reads.capacity() > MAX_IDLE_CAPACITY {
            flow.reads = VecDeque::new();
        }
        self.free.push(index);
    }
}

impl Flow {
    #[inline]
    fn pop(&mut self, now: Instant, total: &mut usize, dropped: &mut Dropped) -> Option<Bytes> {
        loop {
            let (since, packets) = self.reads.front_mut()?;
            let waited = now.saturating_duration_since(*since);
            if waited > MAX_AGE {
                dropped.old += self.drop_read(total);
                continue;
            }
            let packet = packets.next();
            let last = packets.bytes() == 0;
            let freed =
                packet.as_ref().map_or(0, Bytes::len) + if last { READ_OVERHEAD } else { 0 };
            self.bytes -= freed;
            *total -= freed;
            if last {
                self.reads.pop_front();
            }
            let Some(packet) = packet else { continue };
            // Nothing waits behind the last packet.
            if self.reads.is_empty() {
                self.codel.end_waiting();
            } else if self.codel.drops(&CODEL, now, waited) {
                if let Some(marked) = mark_ce(&packet) {
                    self.deficit -= packet.len() as isize;
                    return Some(marked);
                }
                dropped.old += 1;
                continue;
            }
            self.deficit -= packet.len() as isize;
            return Some(packet);
        }
    }

    /// Drops packets that have waited too long, and returns their number.
    #[inline]
    fn expire(&mut self, now: Instant, total: &mut usize) -> u64 {
        let mut count = 0;
        while self
            .reads
            .front()
            .is_some_and(|(since, _)| now.saturating_duration_since(*since) > MAX_AGE)
        {
            count += self.drop_read(total);
        }
        count
    }

    /// Drops the rest of the oldest read, and returns the number of packets.
    fn drop_read(&mut self, total: &mut usize) -> u64 {
        let Some((_, packets)) = self.reads.pop_front() else { return 0 };
        let freed = packets.bytes() + READ_OVERHEAD;
        self.bytes -= freed;
        *total -= freed;
        packets.len() as u64
    }
}

/// The packet marked CE, if its sender supports ECN.
#[cold]
fn mark_ce(packet: &Bytes) -> Option<Bytes> {
    if Ecn::of(packet) == Ecn::NotEct {
        return None;
    }
    let mut marked = BytesMut::from(&packet[..]);
    set_ce(&mut marked);
    Some(marked.freeze())
}

#[cfg(test)]
mod tests;
