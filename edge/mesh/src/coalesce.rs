//! The receive side of TUN offloads: packets of one flow, as they come off a link, into
//! super-packets of up to 64 KiB that the kernel takes with one `writev`.
//!
//! The rules are those of the kernel's own GRO (`tcp_gro_receive`, `udp_gro_receive`,
//! `inet_gro_receive`): whatever is merged here comes out the same when it is segmented again.

use std::io::IoSlice;

use bytes::Bytes;

use crate::{packet::FlowKey, segment::VnetHeader};

mod batch;
mod segment;

use batch::Batch;
use segment::{Class, Segment};

/// Most segments of a super-packet: what kernels before 6.9 take of UDP, and more than 64 KiB of
/// full-sized TCP.
pub const MAX_SEGMENTS: usize = 64;

const SETS: usize = 32;
const WAYS: usize = 4;

/// Collects packets during a turn of the loop and writes them merged.
///
/// Packets of one flow come out in the order they went in; different flows may overtake each other.
/// At most 128 flows are collected at once, of which a newcomer may push one out early. Nothing is copied, and
/// nothing allocated once the turns have reached their size.
#[derive(Debug)]
pub struct Coalescer {
    /// A cache of `WAYS` ways: a flow is only ever in the set that its hash names.
    batches: Vec<Batch>,
    /// A bit for every batch that has packets.
    occupied: u128,
    /// Which way of a full set gives way next.
    victim: usize,
    seed: u64,
    udp: bool,
}

impl Coalescer {
    /// A coalescer that merges TCP, and with `udp` datagrams also: the TUN must then have been given
    /// `TUN_F_USO4` and `TUN_F_USO6`. `seed` keeps senders from choosing colliding flows.
    #[must_use]
    pub fn new(seed: u64, udp: bool) -> Self {
        Self { batches: vec![Batch::default(); SETS * WAYS], occupied: 0, victim: 0, seed, udp }
    }

    /// Takes one whole inner packet. Calls `write` for each packet or super-packet that must go now:
    /// the slices of one call, in order, are one `writev`, a [`VnetHeader`] first.
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

    /// Writes all that is held: at the end of a turn.
    #[inline]
    pub fn flush(&mut self, write: &mut impl FnMut(&[IoSlice<'_>])) {
        self.flush_where(|_| true, write);
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// Adds a segment to its flow's batch, or begins a new one.
    fn merge(&mut self, packet: Bytes, segment: Segment, write: &mut impl FnMut(&[IoSlice<'_>])) {
        let slot = match self.find(&segment.key) {
            Ok(slot) => {
                let batch = &mut self.batches[slot];
                // Merging writes a new checksum, so that a wrong one would become right. The first
                // packet is summed only here: of most flows there is just one in a turn.
                if batch.takes(&packet, &segment) && batch.verify() {
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
        self.batches[slot].begin(packet, segment);
        self.occupied |= 1 << slot;
    }

    /// The slot that has the flow's batch; if none has, the one to use for it.
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

/// Writes a packet as it is.
#[inline]
fn write_alone(packet: &[u8], write: &mut impl FnMut(&[IoSlice<'_>])) {
    write(&[IoSlice::new(&[0; VnetHeader::LEN]), IoSlice::new(packet)]);
}
