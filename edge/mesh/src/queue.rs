//! Inner packets that wait for a link: fair among flows, never for long, bounded.
//!
//! The TUN gives no back-pressure, so it is always read, and what does not leave at once waits here.
//! The scheme is FQ-CoDel's (RFC 8290): each flow has a queue of its own, they take turns by bytes
//! (deficit round robin), a flow that has just begun goes first, and a flow whose packets wait too
//! long loses some, or has them marked if it understands ECN. So a bulk flow fills only its own
//! queue, and a ping or a DNS query passes it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use cframe_packet::{
    ecn::{Ecn, set_ce},
    split::Packets,
};

use crate::codel::{Codel, Law};

/// Bytes that may wait on one link; a few milliseconds at full speed.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Counted with each read of the TUN, for what it costs beside its bytes.
const OVERHEAD: usize = 128;
/// The longest wait, also of a flow that does not slow down when it is told to: a packet that is
/// later than its flow's retransmission is only load.
const MAX_AGE: Duration = Duration::from_millis(100);
/// What each flow is held to: the values of RFC 8290 §5.2.
const LAW: Law = Law { target: Duration::from_millis(5), interval: Duration::from_millis(100) };
/// Bytes that a flow may send in its turn: small against a batch of 64 KiB, so that flows mix, and
/// some packets, so that the other end can merge them.
const QUANTUM: isize = 6000;
/// Room for reads that a flow's place keeps when the flow is gone.
const KEPT_READS: usize = 64;
/// Queues; flows whose hashes meet share one.
const SLOTS: usize = 256;

/// The queue of one link.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    flows: Vec<Flow>,
    /// Places in `flows` that nobody uses.
    free: Vec<u16>,
    /// Flows in their first turn, and the others in the order of their turns.
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    /// Where a hash's flow is in `flows`, plus one. Idle links have none.
    slots: Option<Box<[u16; SLOTS]>>,
    bytes: usize,
}

/// Packets that were given up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GivenUp {
    /// There was no room.
    pub(crate) full: u64,
    /// They had waited too long.
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
    /// Takes what one read of the TUN gave. `hash` tells its flow. If there is no room, the flow
    /// that has most waiting loses what has waited longest.
    pub(crate) fn push(&mut self, now: Instant, hash: u64, packets: Packets, lost: &mut GivenUp) {
        let index = self.flow(hash);
        let flow = &mut self.flows[usize::from(index)];
        lost.old += flow.expire(now, &mut self.bytes);
        let bytes = packets.bytes() + OVERHEAD;
        flow.bytes += bytes;
        flow.reads.push_back((now, packets));
        self.bytes += bytes;
        while self.bytes > MAX_BYTES {
            let Some(fattest) = self.flows.iter_mut().max_by_key(|flow| flow.bytes) else { return };
            lost.full += fattest.drop_read(&mut self.bytes);
        }
    }

    /// The packet whose turn it is.
    pub(crate) fn pop(&mut self, now: Instant, lost: &mut GivenUp) -> Option<Bytes> {
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
            if let Some(packet) = flow.pop(now, &mut self.bytes, lost) {
                if self.bytes == 0 {
                    self.rest();
                }
                return Some(packet);
            }
            list.pop_front();
            // One that began and paused is no newcomer the next moment: it waits for its turn.
            if is_new && !self.old.is_empty() {
                self.old.push_back(index);
            } else {
                self.forget(index);
            }
        }
    }

    /// Gives up what has waited too long; for a link that takes nothing. How many that were.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        self.flows.iter_mut().map(|flow| flow.expire(now, &mut self.bytes)).sum()
    }

    /// Bytes that wait, with what each packet costs beside its own.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Empties the queue; the number of packets given up.
    pub(crate) fn clear(&mut self) -> u64 {
        let count = self.flows.iter().flat_map(|flow| &flow.reads);
        let count = count.map(|(_, packets)| packets.len() as u64).sum();
        *self = Self::default();
        count
    }

    /// The index of a hash's flow, which is in one of the lists.
    fn flow(&mut self, hash: u64) -> u16 {
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

    /// Ends the turns of all flows: none has anything.
    fn rest(&mut self) {
        while let Some(index) = self.new.pop_front().or_else(|| self.old.pop_front()) {
            self.forget(index);
        }
    }

    /// Frees the place of a flow that is empty and in no list.
    fn forget(&mut self, index: u16) {
        let flow = &mut self.flows[usize::from(index)];
        if let Some(slots) = &mut self.slots {
            slots[flow.slot] = 0;
        }
        if flow.reads.capacity() > KEPT_READS {
            flow.reads = VecDeque::new();
        }
        self.free.push(index);
    }
}

impl Flow {
    #[inline]
    fn pop(&mut self, now: Instant, total: &mut usize, lost: &mut GivenUp) -> Option<Bytes> {
        loop {
            let (since, packets) = self.reads.front_mut()?;
            let waited = now.saturating_duration_since(*since);
            if waited > MAX_AGE {
                lost.old += self.drop_read(total);
                continue;
            }
            let packet = packets.next();
            let last = packets.bytes() == 0;
            let freed = packet.as_ref().map_or(0, Bytes::len) + if last { OVERHEAD } else { 0 };
            self.bytes -= freed;
            *total -= freed;
            if last {
                self.reads.pop_front();
            }
            let Some(packet) = packet else { continue };
            // Nothing stands behind the last one.
            if self.reads.is_empty() {
                self.codel.relax();
            } else if self.codel.gives_up(&LAW, now, waited) {
                if let Some(marked) = mark(&packet) {
                    self.deficit -= packet.len() as isize;
                    return Some(marked);
                }
                lost.old += 1;
                continue;
            }
            self.deficit -= packet.len() as isize;
            return Some(packet);
        }
    }

    /// Gives up what has waited too long; how many packets that were.
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

    /// Gives up what is left of the oldest read.
    fn drop_read(&mut self, total: &mut usize) -> u64 {
        let Some((_, packets)) = self.reads.pop_front() else { return 0 };
        let freed = packets.bytes() + OVERHEAD;
        self.bytes -= freed;
        *total -= freed;
        packets.len() as u64
    }
}

/// The packet with the mark of congestion, if its sender understands that.
#[cold]
fn mark(packet: &Bytes) -> Option<Bytes> {
    if Ecn::of(packet) == Ecn::NotEct {
        return None;
    }
    let mut marked = BytesMut::from(&packet[..]);
    set_ce(&mut marked);
    Some(marked.freeze())
}

#[cfg(test)]
mod tests;
