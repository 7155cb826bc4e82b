//! Buffers that datagrams are received into, handed to the core without a copy where they are large.

use std::{array, io, io::IoSliceMut};

use bytes::BytesMut;
use quinn_udp::RecvMeta;

use crate::{
    host::socket::{RECEIVE_BATCH, Socket},
    sys::ReceiveBuffer,
};

/// What one buffer holds: the largest batch that the kernel joins (`UDP_GRO`).
const SLOT: usize = 64 << 10;

/// Up to this a copy is cheaper than giving the buffer away.
const COPY: usize = 4 << 10;

/// Buffers offered to a call, unless the last one filled them all with datagrams that the kernel did
/// not join: else more of them are only more for it to look at.
const FEW: usize = 8;

pub(super) struct Receiver {
    slots: [ReceiveBuffer; RECEIVE_BATCH],
    meta: [RecvMeta; RECEIVE_BATCH],
    /// Slots that a call offers.
    offered: usize,
    /// Copies of small datagrams, many to a piece of memory.
    copies: BytesMut,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            slots: array::from_fn(|_| ReceiveBuffer::new(SLOT)),
            meta: [RecvMeta::default(); RECEIVE_BATCH],
            offered: FEW,
            copies: BytesMut::with_capacity(SLOT),
        }
    }

    /// Receives once; what came is then taken with [`take`](Self::take).
    pub(super) fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        let offered = std::mem::replace(&mut self.offered, FEW);
        let mut bufs = self.slots.each_mut().map(|slot| IoSliceMut::new(slot.whole()));
        let count = socket.receive(&mut bufs[..offered], &mut self.meta)?;
        if count == offered && self.meta[..count].iter().all(|meta| meta.len <= COPY) {
            self.offered = RECEIVE_BATCH;
        }
        Ok(count)
    }

    /// Whether more may wait of which each is little work: the last call found nothing else.
    pub(super) fn may_go_on(&self) -> bool {
        self.offered == RECEIVE_BATCH
    }

    pub(super) fn take(&mut self, index: usize) -> (RecvMeta, BytesMut) {
        let (slot, meta) = (&mut self.slots[index], self.meta[index]);
        let len = meta.len.min(slot.len());
        let data = match len <= COPY {
            true => {
                self.copies.extend_from_slice(&slot[..len]);
                self.copies.split()
            }
            false => slot.take(len),
        };
        (meta, data)
    }
}
