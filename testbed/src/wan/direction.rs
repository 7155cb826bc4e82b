//! One direction between two links: the verdict on each packet, and its due time. Pure: time and
//! packets are arguments, so the same seed and packets give the same verdicts.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cframe_packet::ecn::{Ecn, set_ce};

use super::bottleneck::{Bottleneck, Departure};
use super::loss::Loss;
use super::random::{Random, stream_number};
use super::{WanCounters, WanPath};

/// The verdict on a packet at its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Held until its due time.
    Held,
    TooLarge,
    Lost,
    QueueFull,
    Overflowed,
}

#[derive(Debug)]
pub(super) struct Direction {
    path: WanPath,
    random: RandomStreams,
    bottleneck: Bottleneck,
    /// When the conditions were set.
    since: Duration,
    queue: DelayQueue,
    pub(super) counters: WanCounters,
}

/// One independent stream for each kind of random condition.
#[derive(Debug)]
struct RandomStreams {
    loss: Loss,
    duplicate: Random,
    reorder: Random,
    jitter: Random,
}

impl Direction {
    /// `name` distinguishes the random streams of directions with the same seed.
    pub(super) fn new(name: &str, path: WanPath, now: Duration) -> Self {
        Self {
            random: RandomStreams::new(name, &path),
            queue: DelayQueue::new(&path),
            path,
            bottleneck: Bottleneck::default(),
            since: now,
            counters: WanCounters::default(),
        }
    }

    /// Replaces the conditions and restarts the random streams and counters. Held packets keep their
    /// due times and are not overtaken.
    pub(super) fn set(&mut self, name: &str, path: WanPath, now: Duration) {
        self.random = RandomStreams::new(name, &path);
        self.queue.limit = DelayQueue::new(&path).limit;
        self.path = path;
        self.since = now;
        self.counters = WanCounters::default();
    }

    pub(super) fn path(&self) -> &WanPath {
        &self.path
    }

    /// Judges a packet that arrives at `now`, which never decreases from call to call.
    pub(super) fn offer(&mut self, now: Duration, packet: Bytes) -> Verdict {
        self.counters.offered += 1;
        self.counters.offered_bytes += packet.len() as u64;
        let verdict = self.judge(now, packet);
        match verdict {
            Verdict::Held => {}
            Verdict::TooLarge => self.counters.too_large += 1,
            Verdict::Lost => self.counters.lost += 1,
            Verdict::QueueFull => self.counters.queue_full += 1,
            Verdict::Overflowed => self.counters.overflowed += 1,
        }
        verdict
    }

    fn judge(&mut self, now: Duration, packet: Bytes) -> Verdict {
        let path = &self.path;
        if path.mtu.is_some_and(|mtu| packet.len() > usize::from(mtu)) {
            return Verdict::TooLarge;
        }
        // Each stream is advanced for every packet, so that a packet's draws depend only on how
        // many packets came before it.
        let lost = self.random.loss.next_is_lost();
        let duplicated = self.random.duplicate.draw(path.duplicate);
        let reordered = self.random.reorder.draw(path.reorder);
        if lost {
            return Verdict::Lost;
        }
        if !self.queue.has_room(packet.len()) {
            return Verdict::Overflowed;
        }
        let departure = match path.rate {
            None => Some(Departure { at: now, congested: false }),
            Some(rate) => self.bottleneck.enqueue(now, packet.len(), rate, path.queue),
        };
        let Some(Departure { at, congested }) = departure else { return Verdict::QueueFull };
        let marked = congested && path.ecn && matches!(Ecn::of(&packet), Ecn::Ect0 | Ecn::Ect1);
        let packet = if marked { with_ce(&packet) } else { packet };
        let due = at + path.delay + self.random.jitter(path.jitter, at.saturating_sub(self.since));
        if duplicated {
            self.queue.push(due, packet.clone());
        }
        if reordered {
            self.queue.push_late(due + path.reorder_by, packet);
        } else {
            self.queue.push(due, packet);
        }
        self.counters.marked += u64::from(marked);
        self.counters.duplicated += u64::from(duplicated);
        self.counters.reordered += u64::from(reordered);
        Verdict::Held
    }

    /// Takes the next packet whose due time is `now` or earlier.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Bytes> {
        let packet = self.queue.pop_due(now)?;
        self.counters.delivered += 1;
        self.counters.delivered_bytes += packet.len() as u64;
        Some(packet)
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.queue.next().map(|(due, _)| due)
    }
}

impl RandomStreams {
    fn new(name: &str, path: &WanPath) -> Self {
        let random = |kind: &str| Random::new(path.seed, stream_number(&format!("{name} {kind}")));
        Self {
            loss: Loss::new(random("loss"), path.loss, path.burst),
            duplicate: random("duplicate"),
            reorder: random("reorder"),
            jitter: random("jitter"),
        }
    }

    /// The jitter, 0 to `max`, at a time after the conditions were set. It is interpolated linearly
    /// between random values that are `max` apart in time, so that it never decreases faster than
    /// time passes, and packets keep their order.
    fn jitter(&self, max: Duration, elapsed: Duration) -> Duration {
        if max.is_zero() {
            return Duration::ZERO;
        }
        let position = elapsed.as_secs_f64() / max.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounds down")]
        let index = position as u64;
        let (from, to) = (self.jitter.at(index), self.jitter.at(index + 1));
        max.mul_f64(from + (to - from) * position.fract())
    }
}

fn with_ce(packet: &Bytes) -> Bytes {
    let mut packet = BytesMut::from(packet.as_ref());
    set_ce(&mut packet);
    packet.freeze()
}

/// Packets that wait for their due times, within a limit of memory.
#[derive(Debug)]
struct DelayQueue {
    /// By due time, which is also the order of arrival.
    in_order: VecDeque<(Duration, Bytes)>,
    /// By due time and then by number, which is unique; the earliest on top.
    late: BinaryHeap<Reverse<(Duration, u64, Bytes)>>,
    bytes: usize,
    limit: usize,
    late_count: u64,
}

/// Estimated memory of a packet in addition to its bytes.
const OVERHEAD: usize = 128;

impl DelayQueue {
    /// The limit is 2 Gbit/s times the longest time that a packet is held, 16 to 256 MiB.
    fn new(path: &WanPath) -> Self {
        let queue = if path.rate.is_some() { path.queue } else { Duration::ZERO };
        let longest = path.delay + path.jitter + path.reorder_by + queue;
        let bytes = longest.as_millis().saturating_mul(250_000);
        let limit = usize::try_from(bytes).unwrap_or(usize::MAX).clamp(16 << 20, 256 << 20);
        Self { in_order: VecDeque::new(), late: BinaryHeap::new(), bytes: 0, limit, late_count: 0 }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes + OVERHEAD <= self.limit
    }

    fn push(&mut self, due: Duration, packet: Bytes) {
        // Never before the last one, even if the delay was reduced in the meantime.
        let due = self.in_order.back().map_or(due, |(last, _)| due.max(*last));
        self.bytes += packet.len() + OVERHEAD;
        self.in_order.push_back((due, packet));
    }

    fn push_late(&mut self, due: Duration, packet: Bytes) {
        self.bytes += packet.len() + OVERHEAD;
        self.late_count += 1;
        self.late.push(Reverse((due, self.late_count, packet)));
    }

    /// The earliest due time, and whether it is a late packet's.
    fn next(&self) -> Option<(Duration, bool)> {
        let in_order = self.in_order.front().map(|(due, _)| (*due, false));
        let late = self.late.peek().map(|Reverse((due, ..))| (*due, true));
        in_order.into_iter().chain(late).min()
    }

    fn pop_due(&mut self, now: Duration) -> Option<Bytes> {
        let (_, late) = self.next().filter(|(due, _)| *due <= now)?;
        let packet = if late {
            self.late.pop().map(|Reverse((.., packet))| packet)
        } else {
            self.in_order.pop_front().map(|(_, packet)| packet)
        }?;
        self.bytes -= packet.len() + OVERHEAD;
        Some(packet)
    }
}

#[cfg(test)]
mod tests;
