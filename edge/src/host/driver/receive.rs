//! Buffers that datagrams are received into, handed to the core without a copy where they are large.

use std::{array, io, io::IoSliceMut};

use bytes::BytesMut;
use quinn_udp::RecvMeta;

use crate::host::socket::{RECEIVE_BATCH, Socket};

/// What one buffer holds: the largest batch that the kernel joins (`UDP_GRO`).
const SLOT: usize = 64 << 10;

/// Up to this a copy is cheaper than giving the buffer away and zeroing another.
const COPY: usize = 4 << 10;

pub(super) struct Receiver {
    slots: [BytesMut; RECEIVE_BATCH],
    meta: [RecvMeta; RECEIVE_BATCH],
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            slots: array::from_fn(|_| BytesMut::zeroed(SLOT)),
            meta: [RecvMeta::default(); RECEIVE_BATCH],
        }
    }

    /// Receives once; what came is then taken with [`take`](Self::take).
    pub(super) fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        for slot in self.slots.iter_mut().filter(|slot| slot.len() < SLOT) {
            // Whoever had its front has let go of it by now, so that this takes the same memory back.
            slot.clear();
            slot.reserve(SLOT);
            slot.resize(SLOT, 0);
        }
        let mut bufs = self.slots.each_mut().map(|slot| IoSliceMut::new(slot));
        socket.receive(&mut bufs, &mut self.meta)
    }

    pub(super) fn take(&mut self, index: usize) -> (RecvMeta, BytesMut) {
        let (slot, meta) = (&mut self.slots[index], self.meta[index]);
        let len = meta.len.min(slot.len());
        let data = match len <= COPY {
            true => BytesMut::from(&slot[..len]),
            false => slot.split_to(len),
        };
        (meta, data)
    }
}
