//! Inner packets that wait for a link.
//!
//! The TUN gives no back-pressure, so it is always read and what does not leave at once waits
//! here: bounded in bytes, and dropped by age, because a packet that is later than its flow's
//! retransmission is only load.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// Bytes that may wait on one link; a few milliseconds at full speed.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Counted with each packet, for what it costs beside its bytes.
const OVERHEAD: usize = 128;
/// The longest wait. It only grows where the host's own interface is the bottleneck.
const MAX_AGE: Duration = Duration::from_millis(60);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    packets: VecDeque<(Instant, Bytes)>,
    bytes: usize,
}

impl Queue {
    /// Takes the packet, or says that there is no room.
    pub(crate) fn push(&mut self, now: Instant, packet: Bytes) -> bool {
        if self.bytes + packet.len() + OVERHEAD > MAX_BYTES {
            return false;
        }
        self.bytes += packet.len() + OVERHEAD;
        self.packets.push_back((now, packet));
        true
    }

    /// Puts back, at the head, what could not be sent after all.
    pub(crate) fn put_back(&mut self, now: Instant, packet: Bytes) {
        self.bytes += packet.len() + OVERHEAD;
        self.packets.push_front((now, packet));
    }

    /// The oldest packet that is still worth sending. `expired` counts what was given up.
    pub(crate) fn pop(&mut self, now: Instant, expired: &mut u64) -> Option<(Instant, Bytes)> {
        while let Some((since, packet)) = self.packets.pop_front() {
            self.bytes -= packet.len() + OVERHEAD;
            if now.saturating_duration_since(since) <= MAX_AGE {
                return Some((since, packet));
            }
            *expired += 1;
        }
        None
    }

    /// Bytes that wait, with what each packet costs beside its own.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Empties the queue; the number of packets given up.
    pub(crate) fn clear(&mut self) -> u64 {
        let count = self.packets.len() as u64;
        *self = Self::default();
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_age_is_the_limit() {
        let start = Instant::now();
        let mut queue = Queue::default();
        assert!(queue.push(start, Bytes::from_static(b"old")));
        let later = start + MAX_AGE + Duration::from_millis(1);
        assert!(queue.push(later, Bytes::from_static(b"one")));
        assert!(queue.push(later, Bytes::from_static(b"two")));
        let mut expired = 0;
        let (since, packet) = queue.pop(later, &mut expired).unwrap();
        assert_eq!((&packet[..], expired), (&b"one"[..], 1));
        queue.put_back(since, packet);
        assert_eq!(&queue.pop(later, &mut expired).unwrap().1[..], b"one");
        assert_eq!(&queue.pop(later, &mut expired).unwrap().1[..], b"two");
        assert!(queue.is_empty());
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn bytes_are_bounded() {
        let now = Instant::now();
        let mut queue = Queue::default();
        let packet = Bytes::from(vec![0; 64 * 1024]);
        let taken = (0..200).filter(|_| queue.push(now, packet.clone())).count();
        assert_eq!(taken, MAX_BYTES / (packet.len() + OVERHEAD));
        assert_eq!(queue.clear(), taken as u64);
    }
}
