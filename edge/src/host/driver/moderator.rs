//! When to sleep although there might be work: the interrupt moderation of the loop.
//!
//! Waking a sleeping thread costs 20 to 50 µs of CPU, a packet 1 to 2. At some ten thousand packets a
//! second that come one by one, nearly all of the CPU goes into wake-ups. So when they are many and
//! each finds little, the loop naps for a moment first and then finds the work of the moment at once.
//!
//! What must not pay for that: a ping on an idle mesh (few wake-ups), a bulk flow (much work at each),
//! and exchanges where each packet waits for the one before it. The last cannot be told from the
//! first by looking; but they slow down when the loop naps, and a flow that comes at its own pace does
//! not. So a nap is a trial: if less comes than before, it ends, and the next trial is put off.

use std::time::{Duration, Instant};

/// Time over which wake-ups are counted.
const WINDOW: Duration = Duration::from_millis(10);
/// Wake-ups a second from which on naps are tried.
const MANY_WAKES: f64 = 2500.0;
/// Packets a second below which they end.
const FEW_PACKETS: f64 = 1500.0;
/// Packets at a wake-up that are little work.
const LITTLE: f64 = 12.0;
/// Packets found after a nap that are a bulk flow's.
const BULK: f64 = 32.0;
/// The part of the former rate below which a trial has failed.
const SLOWED: f64 = 0.8;
/// How quickly the rate that a trial is measured by follows the present one, at each window.
const FOLLOWS: f64 = 0.05;
/// How long the next trial is put off: after a bulk flow, and after a failure, doubled each time.
const AFTER_BULK: Duration = Duration::from_millis(100);
const AFTER_FAILURE: Duration = Duration::from_secs(1);
const MAX_FAILURES: u32 = 6;
/// A trial that held this long was right.
const PROVEN: Duration = Duration::from_secs(5);
/// Naps: a part of the shortest round trip, in which so many packets come at most, within bounds.
const FOUND: f64 = 16.0;
const PART_OF_RTT: u32 = 32;
/// A path so short would be felt to be longer.
const NEAR: Duration = Duration::from_millis(2);
const SHORTEST: Duration = Duration::from_micros(250);
const LONGEST: Duration = Duration::from_millis(1);

/// Looks at turns, and says whether to nap before the next.
#[derive(Debug)]
pub(super) struct Moderator {
    began: Instant,
    wakes: u32,
    /// Packets in all, at the window's beginning.
    packets: u64,
    state: State,
    failures: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Awake { until: Instant },
    Napping { since: Instant, usual: f64, nap: Duration },
}

impl Moderator {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, wakes: 0, packets: 0, state: State::Awake { until: now }, failures: 0 }
    }

    /// After a turn: `packets` were carried in all, since the start; `rtt` is asked for the shortest
    /// round trip of the links, when it matters.
    pub(super) fn turned(
        &mut self,
        now: Instant,
        packets: u64,
        rtt: impl FnOnce() -> Option<Duration>,
    ) {
        self.wakes += 1;
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed < WINDOW {
            return;
        }
        let carried = packets.saturating_sub(self.packets) as f64;
        let (rate, wakes) = (carried / elapsed.as_secs_f64(), f64::from(self.wakes));
        let each = carried / wakes;
        self.state = match self.state {
            State::Awake { until } => {
                let many = wakes / elapsed.as_secs_f64() >= MANY_WAKES && rate >= FEW_PACKETS;
                let tried = many && each <= LITTLE && now >= until;
                match tried.then(rtt).flatten().and_then(|rtt| nap(rate, rtt)) {
                    Some(nap) => State::Napping { since: now, usual: rate, nap },
                    None => self.state,
                }
            }
            State::Napping { since, usual, nap } => self.judge(now, since, usual, nap, rate, each),
        };
        (self.began, self.wakes, self.packets) = (now, 0, packets);
    }

    /// How long to sleep before the next turn, whatever comes.
    pub(super) fn nap(&self) -> Option<Duration> {
        match self.state {
            State::Awake { .. } => None,
            State::Napping { nap, .. } => Some(nap),
        }
    }

    fn judge(
        &mut self,
        now: Instant,
        since: Instant,
        usual: f64,
        nap: Duration,
        rate: f64,
        each: f64,
    ) -> State {
        if now.saturating_duration_since(since) >= PROVEN {
            self.failures = 0;
        }
        if each > BULK {
            return State::Awake { until: now + AFTER_BULK };
        }
        if rate < FEW_PACKETS {
            return State::Awake { until: now };
        }
        if rate < SLOWED * usual {
            let wait = AFTER_FAILURE * (1 << self.failures);
            self.failures = (self.failures + 1).min(MAX_FAILURES);
            return State::Awake { until: now + wait };
        }
        State::Napping { since, usual: usual + FOLLOWS * (rate - usual), nap }
    }
}

/// None where the shortest path would be longer by more than a part that nobody notices.
fn nap(rate: f64, rtt: Duration) -> Option<Duration> {
    let nap = (rtt / PART_OF_RTT).min(Duration::from_secs_f64(FOUND / rate));
    (rtt >= NEAR).then(|| nap.clamp(SHORTEST, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A load, turn by turn: what it brings when the loop was away for so long, or when it is waited
    /// for, and how long that takes.
    struct World {
        now: Instant,
        moderator: Moderator,
        packets: u64,
        turns: u32,
        naps: u32,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            Self { now, moderator: Moderator::new(now), packets: 0, turns: 0, naps: 0 }
        }

        /// Runs for `time`: a turn takes 20 µs, and the load says how long until it brings something
        /// and how much, given how long the loop was asleep.
        fn run(&mut self, time: Duration, mut load: impl FnMut(Duration) -> (Duration, u64)) {
            let end = self.now + time;
            (self.turns, self.naps) = (0, 0);
            while self.now < end {
                let nap = self.moderator.nap();
                self.naps += u32::from(nap.is_some());
                let (wait, packets) = load(nap.unwrap_or_default());
                self.now += nap.unwrap_or_default() + wait + Duration::from_micros(20);
                self.packets += packets;
                self.turns += 1;
                self.moderator.turned(self.now, self.packets, || Some(Duration::from_millis(20)));
            }
        }
    }

    const US: Duration = Duration::from_micros(1);

    /// One packet every so often, however long the loop sleeps.
    fn open(gap: Duration) -> impl FnMut(Duration) -> (Duration, u64) {
        move |slept| {
            let waiting = (slept.as_secs_f64() / gap.as_secs_f64()) as u64;
            if waiting > 0 { (Duration::ZERO, waiting) } else { (gap, 1) }
        }
    }

    #[test]
    fn a_paced_flow_gets_naps_and_far_fewer_turns() {
        let mut world = World::new();
        world.run(Duration::from_secs(3), open(60 * US));
        assert!(world.turns < 3 * 2500, "{} turns", world.turns);
        assert!(world.naps * 10 > world.turns * 9);
    }

    #[test]
    fn a_ping_every_2_ms_gets_none() {
        let mut world = World::new();
        world.run(Duration::from_secs(3), open(2000 * US));
        assert_eq!(world.naps, 0);
    }

    #[test]
    fn a_bulk_flow_gets_none() {
        let mut world = World::new();
        world.run(Duration::from_secs(3), |_| (50 * US, 60));
        assert_eq!(world.naps, 0);
    }

    #[test]
    fn exchanges_that_wait_for_each_packet_are_hardly_slowed() {
        let mut world = World::new();
        // The answer takes 180 µs from when the loop has sent the question.
        let mut exchange = |_: Duration| (180 * US, 2);
        world.run(Duration::from_secs(20), &mut exchange);
        let undisturbed = 20_000_000 / 200 * 2;
        assert!(world.naps > 0, "it was tried");
        assert!(world.packets * 100 > undisturbed * 99, "{} of {undisturbed}", world.packets);
    }

    #[test]
    fn a_flow_that_grows_into_bulk_is_let_go() {
        let mut world = World::new();
        world.run(Duration::from_secs(1), open(60 * US));
        assert!(world.naps > 0);
        world
            .run(Duration::from_millis(50), |slept| (10 * US, 10 + (slept.as_micros() / 5) as u64));
        world.run(Duration::from_secs(1), |_| (50 * US, 60));
        assert_eq!(world.naps, 0);
    }

    #[test]
    fn naps_end_with_the_traffic() {
        let mut world = World::new();
        world.run(Duration::from_secs(1), open(60 * US));
        world.run(Duration::from_millis(100), open(2000 * US));
        world.run(Duration::from_secs(1), open(2000 * US));
        assert_eq!(world.naps, 0);
    }

    #[test]
    fn naps_are_a_part_of_the_round_trip_and_fit_the_rate() {
        for (gap, rtt, expected) in [
            (60, None, 0),
            (60, Some(1), 0),
            (60, Some(4), 250),
            (60, Some(16), 500),
            (100, Some(200), 1000),
            (30, Some(200), 480),
        ] {
            let mut moderator = Moderator::new(Instant::now());
            let mut now = moderator.began;
            for turn in 1..=1000 {
                now += gap * US;
                moderator.turned(now, turn, || rtt.map(Duration::from_millis));
            }
            let nap = moderator.nap().unwrap_or_default();
            assert!(nap.abs_diff(expected * US) < 20 * US, "{nap:?}, not {expected} µs");
        }
    }
}
