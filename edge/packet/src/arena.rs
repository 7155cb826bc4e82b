//! Memory for packets, reused once no packet in it is alive.

use bytes::BytesMut;

/// Room for the largest super-packet with a header in front of each of its segments.
const CHUNK: usize = 72 * 1024;
/// Chunks that are kept for reuse: several times what a turn of the loop reads.
const MAX_CHUNKS: usize = 64;

/// Chunks of memory that are used in turn.
///
/// In the steady state nothing is allocated: by the time a chunk's turn comes again, its packets
/// have been dropped.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunks: Vec<BytesMut>,
    current: usize,
    /// Whether the current chunk is larger than [`CHUNK`].
    oversized: bool,
}

impl Arena {
    /// An empty buffer with room for `len` bytes. The caller takes what it wrote with
    /// [`BytesMut::split`]; the rest of the chunk is used for the next call.
    #[inline]
    pub(crate) fn buffer(&mut self, len: usize) -> &mut BytesMut {
        // An oversized chunk is used once.
        if self.oversized {
            self.chunks[self.current] = BytesMut::with_capacity(CHUNK);
        }
        self.oversized = len > CHUNK;
        let has_room = |chunk: &BytesMut| chunk.is_empty() && chunk.capacity() >= len;
        if !self.chunks.get(self.current).is_some_and(has_room) {
            self.current = self.next_chunk(len);
        }
        &mut self.chunks[self.current]
    }

    /// The index of an unused chunk, or of a new one. At [`MAX_CHUNKS`] the new one replaces the
    /// oldest, whose memory lives on with its packets.
    fn next_chunk(&mut self, len: usize) -> usize {
        let count = self.chunks.len();
        for step in 1..=count {
            let index = (self.current + step) % count;
            self.chunks[index].clear();
            if self.chunks[index].try_reclaim(len) {
                return index;
            }
        }
        let chunk = BytesMut::with_capacity(len.max(CHUNK));
        if count < MAX_CHUNKS {
            self.chunks.push(chunk);
            return count;
        }
        let oldest = (self.current + 1) % count;
        self.chunks[oldest] = chunk;
        oldest
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn packet(arena: &mut Arena, byte: u8, len: usize) -> Bytes {
        let buffer = arena.buffer(len);
        buffer.resize(len, byte);
        buffer.split().freeze()
    }

    #[test]
    fn memory_is_reused_when_its_packets_are_gone_and_not_before() {
        let mut arena = Arena::default();
        let held = packet(&mut arena, 1, CHUNK);
        let start = packet(&mut arena, 2, CHUNK).as_ptr();
        for _ in 0..10 {
            assert_eq!(packet(&mut arena, 3, CHUNK).as_ptr(), start);
        }
        assert!(held.iter().all(|byte| *byte == 1));
        assert_eq!(arena.chunks.len(), 2);
    }

    #[test]
    fn small_packets_share_a_chunk() {
        let mut arena = Arena::default();
        let held: Vec<_> = (0..100).map(|byte| packet(&mut arena, byte, 64)).collect();
        assert_eq!(arena.chunks.len(), 1);
        assert!(held.iter().zip(0..).all(|(packet, byte)| packet[..] == [byte; 64]));
    }

    #[test]
    fn the_number_of_chunks_is_bounded_whatever_is_held() {
        let mut arena = Arena::default();
        let held: Vec<_> = (0..200).map(|byte| packet(&mut arena, byte, CHUNK)).collect();
        assert_eq!(arena.chunks.len(), MAX_CHUNKS);
        assert!(held.iter().zip(0..).all(|(packet, byte): (_, u8)| packet[0] == byte));
    }

    #[test]
    fn a_buffer_that_is_larger_than_a_chunk_is_not_kept() {
        let mut arena = Arena::default();
        for _ in 0..100 {
            packet(&mut arena, 1, 10 * CHUNK);
            packet(&mut arena, 2, 100);
        }
        assert!(arena.chunks.iter().all(|chunk| chunk.capacity() <= CHUNK));
    }
}
