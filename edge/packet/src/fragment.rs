//! Packets that are larger than the path's MTU, cut into datagrams whose first byte is
//! [`FRAGMENT`].
//!
//! ```text
//!  0        1        2                                  6                 8
//! +--------+--------+----------------------------------+-----------------+------------
//! |  0x01  | flags  |       packet id (u32, BE)        | offset (u16 BE) | bytes …
//! +--------+--------+----------------------------------+-----------------+------------
//! ```
//!
//! Bit 0 of the flags marks the last piece of the packet; the other bits are sent as zero and not
//! read. The id distinguishes the packets of one link, and may wrap. The offset is the place of the
//! bytes in the packet. No piece is empty.

use std::{collections::VecDeque, iter::FusedIterator, time::Duration, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// The first byte of a datagram that carries a fragment.
pub const FRAGMENT: u8 = 0x01;
/// Bytes before a fragment's content.
pub const HEADER_LEN: usize = 8;
/// How long an incomplete packet is kept. Its pieces are sent together, so one that has not arrived
/// by then was lost.
pub const TIMEOUT: Duration = Duration::from_secs(1);

const LAST: u8 = 1;
const MAX_PIECES: usize = 64;
const MAX_PARTIAL: usize = 64;
const MAX_BYTES: usize = 256 * 1024;

/// Cuts `packet` into datagrams of at most `max_datagram` bytes and of about equal size, so that
/// none is tiny. They share one allocation.
///
/// `None` if that would take more than 64 pieces, or the packet is empty or longer than 65,535
/// bytes.
#[must_use]
pub fn fragment(packet: &[u8], max_datagram: usize, id: u32) -> Option<Fragments> {
    let room = max_datagram.checked_sub(HEADER_LEN).filter(|room| *room > 0)?;
    let count = packet.len().div_ceil(room);
    if !(1..=MAX_PIECES).contains(&count) || packet.len() > usize::from(u16::MAX) {
        return None;
    }
    let size = packet.len().div_ceil(count);
    let mut datagrams = BytesMut::with_capacity(packet.len() + count * HEADER_LEN);
    for (index, piece) in packet.chunks(size).enumerate() {
        let offset = index * size;
        let last = offset + piece.len() == packet.len();
        datagrams.put_u8(FRAGMENT);
        datagrams.put_u8(if last { LAST } else { 0 });
        datagrams.put_u32(id);
        datagrams.put_u16(offset as u16);
        datagrams.put_slice(piece);
    }
    Some(Fragments { datagrams: datagrams.freeze(), size: HEADER_LEN + size })
}

/// The datagrams of one packet, in order.
#[derive(Debug, Clone)]
pub struct Fragments {
    datagrams: Bytes,
    size: usize,
}

impl Iterator for Fragments {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let len = self.size.min(self.datagrams.len());
        (len > 0).then(|| self.datagrams.split_to(len))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.datagrams.len().div_ceil(self.size);
        (count, Some(count))
    }
}

impl ExactSizeIterator for Fragments {}
impl FusedIterator for Fragments {}

/// Reassembles the packets of one link, with bounded memory.
///
/// Pieces may arrive in any order. At most 64 incomplete packets, and 256 KiB, are kept; the oldest
/// is dropped for a new one.
#[derive(Debug)]
pub struct Reassembler {
    /// Oldest first.
    partial: VecDeque<Partial>,
    max_partial: usize,
    max_packet: usize,
    counters: Counters,
}

/// A complete packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassembled {
    pub packet: Bytes,
    /// Whether any of its datagrams was marked CE: then the packet counts as marked (RFC 3168
    /// §5.3).
    pub ce: bool,
}

/// Why a fragment was refused. Its packet is dropped, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Rejected {
    /// Shorter than the header, without content, or not a fragment at all. No packet is dropped.
    #[error("a fragment without header or content")]
    Malformed,
    /// The packet would be longer than the maximum, or has too many pieces.
    #[error("a fragment of a packet that is too large")]
    TooLarge,
    /// It contradicts an earlier one: it overlaps it in part, has other bytes for the same place,
    /// or another end. (RFC 5722 describes the attacks that choosing one of them would allow.)
    #[error("a fragment that contradicts another")]
    Inconsistent,
}

/// Totals of one [`Reassembler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets completed.
    pub reassembled: u64,
    /// Fragments received a second time.
    pub duplicate: u64,
    /// Fragments refused as [`Rejected::Malformed`].
    pub malformed: u64,
    /// Packets refused as [`Rejected::TooLarge`].
    pub too_large: u64,
    /// Packets refused as [`Rejected::Inconsistent`].
    pub inconsistent: u64,
    /// Packets still incomplete after [`TIMEOUT`].
    pub timed_out: u64,
    /// Incomplete packets dropped to make room for newer ones.
    pub evicted: u64,
}

impl Reassembler {
    /// `max_packet`: the most bytes of a packet, and the memory that each incomplete one takes.
    #[must_use]
    pub fn new(max_packet: usize) -> Self {
        let max_packet = max_packet.clamp(1, usize::from(u16::MAX));
        let max_partial = MAX_PARTIAL.min(MAX_BYTES / max_packet);
        Self { partial: VecDeque::new(), max_partial, max_packet, counters: Counters::default() }
    }

    /// Adds one datagram with its header, received at `now`; `ce`: its outer header was marked.
    /// Returns the packet if this was the last missing piece. Errors are counted here.
    pub fn push(
        &mut self,
        now: Instant,
        datagram: &[u8],
        ce: bool,
    ) -> Result<Option<Reassembled>, Rejected> {
        self.expire(now);
        let Some(piece) = Piece::parse(datagram) else {
            self.counters.malformed += 1;
            return Err(Rejected::Malformed);
        };
        // The piece most likely belongs to the newest packet.
        let index = match self.partial.iter().rposition(|partial| partial.id == piece.id) {
            Some(index) => index,
            None => self.start_packet(now, piece.id),
        };
        match self.partial[index].add(&piece, ce, self.max_packet) {
            Ok(Added::Incomplete) => Ok(None),
            Ok(Added::Duplicate) => {
                self.counters.duplicate += 1;
                Ok(None)
            }
            Ok(Added::Complete) => {
                self.counters.reassembled += 1;
                Ok(self.partial.remove(index).map(Partial::finish))
            }
            Err(reason) => {
                self.partial.remove(index);
                match reason {
                    Rejected::Malformed => self.counters.malformed += 1,
                    Rejected::TooLarge => self.counters.too_large += 1,
                    Rejected::Inconsistent => self.counters.inconsistent += 1,
                }
                Err(reason)
            }
        }
    }

    /// Drops packets that are incomplete after [`TIMEOUT`]. [`Self::push`] does so too; this is for
    /// links that receive nothing more.
    pub fn expire(&mut self, now: Instant) {
        while self.next_expiry().is_some_and(|at| at <= now) {
            self.partial.pop_front();
            self.counters.timed_out += 1;
        }
    }

    /// When [`Self::expire`] will next drop a packet.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.partial.front().map(|partial| partial.started + TIMEOUT)
    }

    /// The number of incomplete packets.
    #[must_use]
    pub fn incomplete(&self) -> usize {
        self.partial.len()
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Adds an empty packet and returns its index.
    fn start_packet(&mut self, now: Instant, id: u32) -> usize {
        if self.partial.len() >= self.max_partial {
            self.partial.pop_front();
            self.counters.evicted += 1;
        }
        self.partial.push_back(Partial::new(now, id, self.max_packet));
        self.partial.len() - 1
    }
}

/// One parsed fragment.
struct Piece<'a> {
    id: u32,
    offset: usize,
    last: bool,
    bytes: &'a [u8],
}

impl<'a> Piece<'a> {
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (&[kind, flags, a, b, c, d, e, f], bytes) =
            datagram.split_first_chunk::<HEADER_LEN>()?;
        (kind == FRAGMENT && !bytes.is_empty()).then(|| Self {
            id: u32::from_be_bytes([a, b, c, d]),
            offset: usize::from(u16::from_be_bytes([e, f])),
            last: flags & LAST != 0,
            bytes,
        })
    }
}

/// An incomplete packet.
#[derive(Debug)]
struct Partial {
    id: u32,
    started: Instant,
    ce: bool,
    pieces: usize,
    /// The packet's length, once the last piece has arrived.
    end: Option<usize>,
    buffer: Vec<u8>,
    /// The parts that have arrived: sorted, disjoint, not adjacent, `start..end`.
    ranges: Vec<(usize, usize)>,
}

enum Added {
    Incomplete,
    Duplicate,
    Complete,
}

impl Partial {
    fn new(started: Instant, id: u32, capacity: usize) -> Self {
        let buffer = Vec::with_capacity(capacity);
        Self { id, started, ce: false, pieces: 0, end: None, buffer, ranges: Vec::new() }
    }

    fn add(&mut self, piece: &Piece<'_>, ce: bool, max_packet: usize) -> Result<Added, Rejected> {
        let (start, end) = (piece.offset, piece.offset + piece.bytes.len());
        if end > max_packet || self.pieces >= MAX_PIECES {
            return Err(Rejected::TooLarge);
        }
        if !self.agrees_on_end(piece.last, end) {
            return Err(Rejected::Inconsistent);
        }
        let index = self.ranges.partition_point(|range| range.1 <= start);
        if let Some(&(from, to)) = self.ranges.get(index).filter(|range| range.0 < end) {
            let same = from <= start && end <= to && self.buffer[start..end] == *piece.bytes;
            return if same { Ok(Added::Duplicate) } else { Err(Rejected::Inconsistent) };
        }
        self.ce |= ce;
        self.pieces += 1;
        if piece.last {
            self.end = Some(end);
        }
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer[start..end].copy_from_slice(piece.bytes);
        self.insert_range(index, start, end);
        let complete = self.end.is_some_and(|end| self.ranges[..] == [(0, end)]);
        Ok(if complete { Added::Complete } else { Added::Incomplete })
    }

    /// Whether a piece up to `end` agrees with what is known of the packet's end.
    fn agrees_on_end(&self, last: bool, end: usize) -> bool {
        match self.end {
            Some(known) if last => end == known,
            Some(known) => end < known,
            None => !last || self.buffer.len() < end,
        }
    }

    /// Adds a range before the one at `index`, and joins it with adjacent ones.
    fn insert_range(&mut self, index: usize, start: usize, end: usize) {
        let before = index > 0 && self.ranges[index - 1].1 == start;
        let after = self.ranges.get(index).is_some_and(|range| range.0 == end);
        match (before, after) {
            (true, true) => self.ranges[index - 1].1 = self.ranges.remove(index).1,
            (true, false) => self.ranges[index - 1].1 = end,
            (false, true) => self.ranges[index].0 = start,
            (false, false) => self.ranges.insert(index, (start, end)),
        }
    }

    fn finish(self) -> Reassembled {
        Reassembled { packet: Bytes::from(self.buffer), ce: self.ce }
    }
}
