//! The receive side of TUN offloads: merges packets of one flow, received from a link, into
//! super-packets of up to 64 KiB that the kernel takes with one `writev`.
//!
//! The rules are those of the kernel's own GRO (`tcp_gro_receive`, `udp_gro_receive`,
//! `inet_gro_receive`): segmenting a merged packet gives back exactly the original packets.

use std::io::IoSlice;

use bytes::Bytes;

use crate::{flow::FlowKey, vnet::VnetHeader};

mod batch;
mod segment;

use batch::Batch;
use segment::{Class, Segment};

/// Most segments of a super-packet: the limit for UDP in kernels before 6.9, and more than 64 KiB
/// of full-sized TCP segments.
pub const MAX_SEGMENTS: usize = 64;

const SETS: usize = 32;
const WAYS: usize = 4;

/// Collects packets during a turn of the loop and writes them merged.
///
/// Packets of one flow come out in the order they went in; different flows may overtake each other.
/// At most 128 flows are collected at once; one more may cause another to be written early. Nothing
/// is copied, and in the steady state nothing is allocated.
#[derive(Debug)]
pub struct Coalescer {
    /// A set-associative cache of `SETS` sets: a flow's hash selects the set.
    batches: Vec<Batch>,
    /// A bit for every batch that has packets.
    occupied: u128,
    /// Which way of a full set is evicted next.
    victim: usize,
    seed: u64,
    udp: bool,
}

impl Coalescer {
    /// Merges TCP, and with `udp` also UDP: the TUN must then have `TUN_F_USO4` and `TUN_F_USO6`
    /// set. `seed` keeps senders from choosing colliding flows.
    #[must_use]
    pub fn new(seed: u64, udp: bool) -> Self {
        Self { batches: vec![Batch::default(); SETS * WAYS], occupied: 0, victim: 0, seed, udp }
    }

    /// Adds one whole packet. Calls `write` for each packet or super-packet that must be written
    /// now: the slices of one call, in order, are one `writev`, a [`VnetHeader`] first.
    #[inline]
    pub fn push(&mut self, packet: Bytes, write: &mut impl FnMut(&[IoSlice<'_>])) {
        match Class::of(&packet, self.udp) {
            Class::Alone => {}
            Class::Addresses(key) => {
                self.flush_where(|batch| batch.key().same_addresses(&key), write)
            }
            Class::Flow(key) => {
                if let Ok(slot) = self.find(&key) {
                    self.flush_slot(slot, write);
                }
            }
            Class::Segment(segment) => return self.merge(packet, segment, write),
        }
        write_alone(&packet, write);
    }

    /// Writes all collected packets: to be called at the end of a turn.
    #[inline]
    pub fn flush(&mut self, write: &mut impl FnMut(&[IoSlice<'_>])) {
        self.flush_where(|_| true, write);
    }

    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// Adds a segment to its flow's batch, or starts a new batch.
    fn merge(&mut self, packet: Bytes, segment: Segment, write: &mut impl FnMut(&[IoSlice<'_>])) {
        let slot = match self.find(&segment.key) {
            Ok(slot) => {
                let batch = &mut self.batches[slot];
                // Merging writes a new checksum, which would make a wrong one right, so both
                // packets' checksums are verified. The batch's first packet is verified only now:
                // most flows have just one packet in a turn.
                if batch.accepts(&packet, &segment) && batch.verify() {
                    if !segment.verify(&packet) {
                        self.flush_slot(slot, write);
                        return write_alone(&packet, write);
                    }
                    if batch.add(packet, &segment) {
                        self.flush_slot(slot, write);
                    }
                    return;
                }
                slot
            }
            Err(slot) => slot,
        };
        self.flush_slot(slot, write);
        if segment.push {
            return write_alone(&packet, write);
        }
        self.batches[slot].start(packet, segment);
        self.occupied |= 1 << slot;
    }

    /// The slot of the flow's batch; if there is none, the slot to use for it as `Err`.
    #[inline]
    fn find(&mut self, key: &FlowKey) -> Result<usize, usize> {
        let first = (key.hash64(self.seed) as usize % SETS) * WAYS;
        let mut free = None;
        for slot in first..first + WAYS {
            if self.occupied & 1 << slot == 0 {
                free = free.or(Some(slot));
            } else if self.batches[slot].key() == key {
                return Ok(slot);
            }
        }
        Err(free.unwrap_or_else(|| {
            self.victim = (self.victim + 1) % WAYS;
            first + self.victim
        }))
    }

    fn flush_where(
        &mut self,
        which: impl Fn(&Batch) -> bool,
        write: &mut impl FnMut(&[IoSlice<'_>]),
    ) {
        let mut rest = self.occupied;
        while rest != 0 {
            let slot = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            if which(&self.batches[slot]) {
                self.flush_slot(slot, write);
            }
        }
    }

    #[inline]
    fn flush_slot(&mut self, slot: usize, write: &mut impl FnMut(&[IoSlice<'_>])) {
        if self.occupied & 1 << slot != 0 {
            self.occupied &= !(1 << slot);
            self.batches[slot].write(write);
        }
    }
}

/// Writes a packet unchanged.
#[inline]
fn write_alone(packet: &[u8], write: &mut impl FnMut(&[IoSlice<'_>])) {
    write(&[IoSlice::new(&[0; VnetHeader::LEN]), IoSlice::new(packet)]);
}
