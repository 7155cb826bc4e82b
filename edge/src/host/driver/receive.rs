//! Buffers that datagrams are received into, handed to the core without a copy where they are large.

use std::{array, io, io::IoSliceMut};

use bytes::BytesMut;
use quinn_udp::RecvMeta;

use crate::{
    host::socket::{RECEIVE_BATCH, Socket},
    sys,
};

/// What one buffer holds: the largest batch that the kernel joins (`UDP_GRO`).
const SLOT: usize = 64 << 10;

/// Up to this a copy is cheaper than giving the buffer away.
const COPY: usize = 4 << 10;

/// Buffers offered to a call, unless the last one filled them all with datagrams that the kernel did
/// not join: else more of them are only more for it to look at.
const FEW: usize = 8;

pub(super) struct Receiver {
    slots: [BytesMut; RECEIVE_BATCH],
    meta: [RecvMeta; RECEIVE_BATCH],
    /// The address at which each slot begins, by which it is known when it is whole again.
    origins: [usize; RECEIVE_BATCH],
    /// Slots that a call offers.
    offered: usize,
    /// Whether the last call filled them all, so that more may wait.
    pub(super) full: bool,
    /// Copies of small datagrams, many to a piece of memory.
    copies: BytesMut,
}

impl Receiver {
    pub(super) fn new() -> Self {
        let slots = array::from_fn(|_| BytesMut::zeroed(SLOT));
        Self {
            origins: slots.each_ref().map(|slot: &BytesMut| slot.as_ptr().addr()),
            slots,
            meta: [RecvMeta::default(); RECEIVE_BATCH],
            offered: FEW,
            full: false,
            copies: BytesMut::with_capacity(SLOT),
        }
    }

    /// Receives once; what came is then taken with [`take`](Self::take).
    pub(super) fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        let slots = &mut self.slots[..self.offered];
        for (slot, origin) in slots.iter_mut().zip(&mut self.origins) {
            if slot.len() < SLOT && !sys::whole_again(slot, *origin, SLOT) {
                *slot = BytesMut::zeroed(SLOT);
                *origin = slot.as_ptr().addr();
            }
        }
        let mut bufs = self.slots.each_mut().map(|slot| IoSliceMut::new(slot));
        let offered = self.offered;
        let count = socket.receive(&mut bufs[..offered], &mut self.meta)?;
        self.full = count == offered;
        // Joined ones are much work each, and others have to have their turn.
        let single = self.meta[..count].iter().all(|meta| meta.len <= COPY);
        self.offered = if self.full && single { RECEIVE_BATCH } else { FEW };
        Ok(count)
    }

    pub(super) fn take(&mut self, index: usize) -> (RecvMeta, BytesMut) {
        let (slot, meta) = (&mut self.slots[index], self.meta[index]);
        let len = meta.len.min(slot.len());
        let data = match len <= COPY {
            true => {
                self.copies.extend_from_slice(&slot[..len]);
                self.copies.split()
            }
            false => slot.split_to(len),
        };
        (meta, data)
    }
}
