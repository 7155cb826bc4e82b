//! Two edges with a link, and the loop of a host around each, without system calls.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use cframe_mesh::{Mesh, Received, Transmit};

use crate::{
    counting::{self, Account},
    edges::{self, EdgeBuilder},
};

/// The values of the host's loop: datagrams of a batch, and receive buffers.
const MAX_SEGMENTS: usize = 44;
const SLOT: usize = 64 << 10;
const SLOTS: usize = 64;
/// Batches of up to this many bytes are copied into a shared buffer.
const MAX_COPY: usize = 4 << 10;
/// One-way latency in virtual time.
const LATENCY: Duration = Duration::from_micros(50);

/// `left` sends to `right`.
pub(crate) struct Pair {
    left: Mesh,
    right: Mesh,
    pub(crate) now: Instant,
    to_right: Wire,
    to_left: Wire,
}

/// Datagrams under way to an edge, and its receive buffers.
struct Wire {
    buffer: Vec<u8>,
    flights: Vec<(Transmit, BytesMut)>,
    slots: Vec<BytesMut>,
    next: usize,
    copies: BytesMut,
}

impl Pair {
    /// A pair with a link whose path MTU is known.
    pub(crate) fn linked() -> Self {
        let now = Instant::now();
        let builder = EdgeBuilder::new(now);
        let [left, right] = [0, 1].map(|index| builder.mesh(index, builder.config(index)));
        let mut pair = Self { left, right, now, to_right: Wire::new(), to_left: Wire::new() };
        edges::add_peer(&mut pair.left, now, 1, true);
        edges::add_peer(&mut pair.right, now, 0, false);
        let full = |mesh: &Mesh| {
            mesh.links().all(|link| link.up && link.largest_inner >= edges::TUN_MTU.into())
        };
        while !(full(&pair.left) && full(&pair.right)) {
            assert!(pair.now < now + Duration::from_secs(10), "no link");
            pair.now += Duration::from_millis(1);
            pair.turn(&[]);
        }
        pair
    }

    /// Inner packets that the right edge has received.
    pub(crate) fn received(&self) -> u64 {
        self.right.counters().received
    }

    /// One turn of each edge's loop: the left one sends `reads`, the right one receives them, and
    /// its acknowledgements return.
    pub(crate) fn turn(&mut self, reads: &[&[u8]]) {
        let Self { left, right, to_left, to_right, .. } = self;
        counting::charge(Account::Left, || send(left, self.now, reads));
        to_right.carry(left, self.now, Account::Left);
        self.now += LATENCY;
        to_right.arrive(right, self.now, edges::address(0), Account::Right);
        to_left.carry(right, self.now, Account::Right);
        self.now += LATENCY;
        to_left.arrive(left, self.now, edges::address(1), Account::Left);
        for mesh in [left, right] {
            while mesh.poll_event().is_some() {}
        }
    }
}

impl Wire {
    fn new() -> Self {
        Self {
            buffer: Vec::with_capacity(SLOT),
            flights: Vec::new(),
            slots: (0..SLOTS).map(|_| BytesMut::with_capacity(SLOT)).collect(),
            next: 0,
            copies: BytesMut::with_capacity(SLOT),
        }
    }

    /// Collects what an edge transmits.
    fn carry(&mut self, mesh: &mut Mesh, now: Instant, account: Account) {
        while let Some(transmit) =
            counting::charge(account, || transmit(mesh, now, &mut self.buffer))
        {
            let batch = self.received(transmit.size);
            self.flights.push((transmit, batch));
        }
    }

    /// The first `len` bytes of the buffer, in memory like that of the host's receiver.
    fn received(&mut self, len: usize) -> BytesMut {
        let bytes = &self.buffer[..len];
        if len <= MAX_COPY {
            self.copies.extend_from_slice(bytes);
            return self.copies.split();
        }
        self.next = (self.next + 1) % self.slots.len();
        let slot = &mut self.slots[self.next];
        if !slot.try_reclaim(SLOT) {
            *slot = BytesMut::with_capacity(SLOT);
        }
        slot.extend_from_slice(bytes);
        slot.split()
    }

    fn arrive(
        &mut self,
        mesh: &mut Mesh,
        now: Instant,
        remote: std::net::SocketAddr,
        account: Account,
    ) {
        for (transmit, batch) in self.flights.drain(..) {
            let stride = transmit.segment_size.unwrap_or(batch.len());
            let from = Received { remote, local_ip: None, ecn: transmit.ecn, stride };
            counting::charge(account, || receive(mesh, now, &from, batch));
        }
        counting::charge(account, || end_turn(mesh, now));
    }
}

/// The parts of a sender and of a receiver; not inlined, so that callgrind can distinguish them.
#[inline(never)]
fn send(mesh: &mut Mesh, now: Instant, reads: &[&[u8]]) {
    for read in reads {
        mesh.handle_tun(now, black_box(read));
    }
}

#[inline(never)]
fn transmit(mesh: &mut Mesh, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
    mesh.poll_transmit(now, MAX_SEGMENTS, buffer)
}

#[inline(never)]
fn receive(mesh: &mut Mesh, now: Instant, from: &Received, batch: BytesMut) {
    mesh.handle_datagrams(now, from, batch, &mut |slices| {
        black_box(slices);
    });
}

#[inline(never)]
fn end_turn(mesh: &mut Mesh, now: Instant) {
    mesh.flush_tun(&mut |slices| {
        black_box(slices);
    });
    if mesh.poll_timeout().is_some_and(|at| at <= now) {
        mesh.handle_timeout(now);
    }
}
