//! One direction between two links: what becomes of each packet, and when. Pure: time and packets
//! come in as arguments, so a seed and the same packets give the same verdicts.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cframe_packet::ecn::{Ecn, set_ce};

use super::bottleneck::{Bottleneck, Departure};
use super::loss::Loss;
use super::random::{Random, sequence};
use super::{WanCounters, WanPath};

/// What became of a packet at the moment it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It will be due.
    Taken,
    TooLarge,
    Lost,
    QueueFull,
    Overflowed,
}

#[derive(Debug)]
pub(super) struct Direction {
    path: WanPath,
    fate: Fate,
    bottleneck: Bottleneck,
    /// When the conditions were set.
    since: Duration,
    held: Held,
    pub(super) counters: WanCounters,
}

/// The random part.
#[derive(Debug)]
struct Fate {
    loss: Loss,
    duplicate: Random,
    reorder: Random,
    jitter: Random,
}

impl Direction {
    /// `name` tells the directions of a seed from each other.
    pub(super) fn new(name: &str, path: WanPath, now: Duration) -> Self {
        Self {
            fate: Fate::new(name, &path),
            held: Held::new(&path),
            path,
            bottleneck: Bottleneck::default(),
            since: now,
            counters: WanCounters::default(),
        }
    }

    /// Changes the conditions: the random sequences and the counters begin anew, what is held stays
    /// due when it was, and nothing overtakes it.
    pub(super) fn set(&mut self, name: &str, path: WanPath, now: Duration) {
        self.fate = Fate::new(name, &path);
        self.held.limit = Held::new(&path).limit;
        self.path = path;
        self.since = now;
        self.counters = WanCounters::default();
    }

    pub(super) fn path(&self) -> &WanPath {
        &self.path
    }

    /// Takes a packet that comes at `now`. Times never go back from call to call.
    pub(super) fn offer(&mut self, now: Duration, packet: Bytes) -> Verdict {
        self.counters.offered += 1;
        self.counters.offered_bytes += packet.len() as u64;
        let verdict = self.judge(now, packet);
        match verdict {
            Verdict::Taken => {}
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
        // All are drawn for every packet: so a packet's fate depends on its number alone.
        let lost = self.fate.loss.strikes();
        let twice = self.fate.duplicate.strikes(path.duplicate);
        let late = self.fate.reorder.strikes(path.reorder);
        if lost {
            return Verdict::Lost;
        }
        if !self.held.has_room(packet.len()) {
            return Verdict::Overflowed;
        }
        let departure = match path.rate {
            None => Some(Departure { at: now, congested: false }),
            Some(rate) => self.bottleneck.take(now, packet.len(), rate, path.queue),
        };
        let Some(Departure { at, congested }) = departure else { return Verdict::QueueFull };
        let marks = congested && path.ecn && matches!(Ecn::of(&packet), Ecn::Ect0 | Ecn::Ect1);
        let packet = if marks { marked(&packet) } else { packet };
        let due = at + path.delay + self.fate.jitter(path.jitter, at.saturating_sub(self.since));
        if twice {
            self.held.hold(due, packet.clone());
        }
        if late {
            self.held.hold_back(due + path.reorder_by, packet);
        } else {
            self.held.hold(due, packet);
        }
        self.counters.marked += u64::from(marks);
        self.counters.duplicated += u64::from(twice);
        self.counters.reordered += u64::from(late);
        Verdict::Taken
    }

    /// The next packet that is due at `now` or was before.
    pub(super) fn due(&mut self, now: Duration) -> Option<Bytes> {
        let packet = self.held.take(now)?;
        self.counters.delivered += 1;
        self.counters.delivered_bytes += packet.len() as u64;
        Some(packet)
    }

    /// When the next one is.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.held.next().map(|(due, _)| due)
    }
}

impl Fate {
    fn new(name: &str, path: &WanPath) -> Self {
        let random = |what: &str| Random::new(path.seed, sequence(&format!("{name} {what}")));
        Self {
            loss: Loss::new(random("loss"), path.loss, path.burst),
            duplicate: random("duplicate"),
            reorder: random("reorder"),
            jitter: random("jitter"),
        }
    }

    /// Goes in straight lines between random values that are `most` apart in time: so it never
    /// falls faster than time passes, and packets keep their order without bunching.
    fn jitter(&self, most: Duration, elapsed: Duration) -> Duration {
        if most.is_zero() {
            return Duration::ZERO;
        }
        let knots = elapsed.as_secs_f64() / most.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounds down")]
        let before = knots as u64;
        let (from, to) = (self.jitter.at(before), self.jitter.at(before + 1));
        most.mul_f64(from + (to - from) * knots.fract())
    }
}

fn marked(packet: &Bytes) -> Bytes {
    let mut packet = BytesMut::from(packet.as_ref());
    set_ce(&mut packet);
    packet.freeze()
}

/// Packets on their way.
#[derive(Debug)]
struct Held {
    /// In the order of their due times, which is that of their coming.
    in_order: VecDeque<(Duration, Bytes)>,
    late: BinaryHeap<Late>,
    bytes: usize,
    limit: usize,
    taken: u64,
}

/// What a packet costs beside its bytes.
const OVERHEAD: usize = 128;

impl Held {
    /// Room for 2 Gbit/s during the longest that a packet is held, within bounds.
    fn new(path: &WanPath) -> Self {
        let queue = if path.rate.is_some() { path.queue } else { Duration::ZERO };
        let longest = path.delay + path.jitter + path.reorder_by + queue;
        let bytes = longest.as_millis().saturating_mul(250_000);
        let limit = usize::try_from(bytes).unwrap_or(usize::MAX).clamp(16 << 20, 256 << 20);
        Self { in_order: VecDeque::new(), late: BinaryHeap::new(), bytes: 0, limit, taken: 0 }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes + OVERHEAD <= self.limit
    }

    fn hold(&mut self, due: Duration, packet: Bytes) {
        // Also when the conditions changed for a shorter delay.
        let due = self.in_order.back().map_or(due, |(last, _)| due.max(*last));
        self.bytes += packet.len() + OVERHEAD;
        self.in_order.push_back((due, packet));
    }

    fn hold_back(&mut self, due: Duration, packet: Bytes) {
        self.bytes += packet.len() + OVERHEAD;
        self.taken += 1;
        self.late.push(Late { due, number: self.taken, packet });
    }

    /// The first due time, and whether it is a late packet's.
    fn next(&self) -> Option<(Duration, bool)> {
        let in_order = self.in_order.front().map(|(due, _)| (*due, false));
        let late = self.late.peek().map(|late| (late.due, true));
        in_order.into_iter().chain(late).min()
    }

    fn take(&mut self, now: Duration) -> Option<Bytes> {
        let (_, late) = self.next().filter(|(due, _)| *due <= now)?;
        let packet = if late {
            self.late.pop().map(|late| late.packet)
        } else {
            self.in_order.pop_front().map(|(_, packet)| packet)
        }?;
        self.bytes -= packet.len() + OVERHEAD;
        Some(packet)
    }
}

#[derive(Debug)]
struct Late {
    due: Duration,
    number: u64,
    packet: Bytes,
}

/// The earliest is the greatest, as a [`BinaryHeap`] has that on top.
impl Ord for Late {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Late {}

#[cfg(test)]
mod tests;
