//! Buffers that datagrams are received into, handed to the core without a copy where they are large.

use std::{array, io, io::IoSliceMut};

use bytes::BytesMut;
use quinn_udp::RecvMeta;

use crate::{
    host::socket::{RECEIVE_BATCH, Socket},
    sys::ReceiveBuffer,
};

/// Bytes of one buffer: the largest batch that the kernel coalesces (`UDP_GRO`).
const SLOT_LEN: usize = 64 << 10;

/// Datagrams of up to so many bytes are copied, which is cheaper than handing over the buffer.
const MAX_COPY_LEN: usize = 4 << 10;

/// Buffers for one call, unless the last call filled all of them with small datagrams. More buffers
/// only make the call slower.
const USUAL_SLOTS: usize = 8;

pub(super) struct Receiver {
    slots: [ReceiveBuffer; RECEIVE_BATCH],
    meta: [RecvMeta; RECEIVE_BATCH],
    /// Slots for the next call.
    offered: usize,
    /// Copies of small datagrams; many share one allocation.
    copies: BytesMut,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            slots: array::from_fn(|_| ReceiveBuffer::new(SLOT_LEN)),
            meta: [RecvMeta::default(); RECEIVE_BATCH],
            offered: USUAL_SLOTS,
            copies: BytesMut::with_capacity(SLOT_LEN),
        }
    }

    /// Receives once and returns the number of buffers to [`take`](Self::take).
    pub(super) fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        let offered = std::mem::replace(&mut self.offered, USUAL_SLOTS);
        let mut bufs = self.slots.each_mut().map(|slot| IoSliceMut::new(slot.whole()));
        let count = socket.receive(&mut bufs[..offered], &mut self.meta)?;
        if count == offered && self.meta[..count].iter().all(|meta| meta.len <= MAX_COPY_LEN) {
            self.offered = RECEIVE_BATCH;
        }
        Ok(count)
    }

    /// Whether to receive again in this turn: the last call found nothing but small datagrams, and more
    /// may wait.
    pub(super) fn may_continue(&self) -> bool {
        self.offered == RECEIVE_BATCH
    }

    pub(super) fn take(&mut self, index: usize) -> (RecvMeta, BytesMut) {
        let (slot, meta) = (&mut self.slots[index], self.meta[index]);
        let len = meta.len.min(slot.len());
        let data = match len <= MAX_COPY_LEN {
            true => {
                self.copies.extend_from_slice(&slot[..len]);
                self.copies.split()
            }
            false => slot.take(len),
        };
        (meta, data)
    }
}
