//! Interrupt moderation for the loop: when to sleep a moment although there may be work.
//!
//! To wake a sleeping thread costs 20 to 50 µs of CPU, a packet 1 to 2. At some ten thousand packets a
//! second that arrive one by one, most of the CPU goes into wake-ups. So if there are many wake-ups
//! with few packets each, the loop naps first and then handles what has arrived at once.
//!
//! Three kinds of traffic must not suffer from it: a ping on an idle mesh (few wake-ups), a bulk flow
//! (many packets per wake-up), and exchanges in which each packet waits for the one before. The third
//! kind looks like the traffic that naps are for, but it slows down when the loop naps, and a flow that
//! paces itself does not. So each nap period is a trial: if fewer packets arrive than before, it ends,
//! and the next trial is delayed.

use std::time::{Duration, Instant};

/// Time over which wake-ups and packets are counted.
const WINDOW: Duration = Duration::from_millis(10);
/// Wake-ups a second from which on a trial may start.
const MIN_WAKE_RATE: f64 = 2500.0;
/// Packets a second below which naps end.
const MIN_PACKET_RATE: f64 = 1500.0;
/// Packets per wake-up up to which a trial may start.
const MAX_PACKETS_PER_WAKE: f64 = 12.0;
/// Packets per nap above which the traffic is a bulk flow.
const BULK_PACKETS_PER_NAP: f64 = 32.0;
/// A trial has failed when the packet rate falls below this part of the rate before it.
const SLOWDOWN_RATIO: f64 = 0.8;
/// Weight of the present rate, per window, in the rate that a trial is compared with.
const RATE_WEIGHT: f64 = 0.05;
/// How long the next trial is delayed after a bulk flow.
const BULK_DELAY: Duration = Duration::from_millis(100);
/// … and after a failure; doubled by each further one, up to `MAX_FAILURES` times.
const FAILURE_DELAY: Duration = Duration::from_secs(1);
const MAX_FAILURES: u32 = 6;
/// A trial that has lasted this long resets the count of failures.
const SUCCESS_AFTER: Duration = Duration::from_secs(5);
/// A nap lasts the time in which so many packets arrive, but at most this part of the shortest round
/// trip, and is between `MIN_NAP` and `MAX_NAP`.
const PACKETS_PER_NAP: f64 = 16.0;
const RTT_DIVISOR: u32 = 32;
const MIN_NAP: Duration = Duration::from_micros(250);
const MAX_NAP: Duration = Duration::from_millis(1);
/// With a shorter round trip than this, a nap would be noticed.
const MIN_RTT: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Moderator {
    window_start: Instant,
    /// Wake-ups in this window.
    wakes: u32,
    /// Packets in all, at the start of the window.
    packets: u64,
    state: State,
    failures: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Awake {
        /// When the next trial may start.
        until: Instant,
    },
    Napping(Trial),
}

#[derive(Debug, Clone, Copy)]
struct Trial {
    since: Instant,
    /// Packets a second that are expected without naps.
    usual_rate: f64,
    nap: Duration,
}

impl Moderator {
    pub(super) fn new(now: Instant) -> Self {
        let state = State::Awake { until: now };
        Self { window_start: now, wakes: 0, packets: 0, state, failures: 0 }
    }

    /// After each turn. `packets`: how many were carried in all since the start. `rtt`: the shortest
    /// round trip of all links, called only if it matters.
    pub(super) fn record_turn(
        &mut self,
        now: Instant,
        packets: u64,
        rtt: impl FnOnce() -> Option<Duration>,
    ) {
        self.wakes += 1;
        let elapsed = now.saturating_duration_since(self.window_start);
        if elapsed < WINDOW {
            return;
        }
        let carried = packets.saturating_sub(self.packets) as f64;
        let (rate, wakes) = (carried / elapsed.as_secs_f64(), f64::from(self.wakes));
        let per_wake = carried / wakes;
        self.state = match self.state {
            State::Awake { until } => {
                let busy =
                    wakes / elapsed.as_secs_f64() >= MIN_WAKE_RATE && rate >= MIN_PACKET_RATE;
                let may_start = busy && per_wake <= MAX_PACKETS_PER_WAKE && now >= until;
                match may_start.then(rtt).flatten().and_then(|rtt| nap(rate, rtt)) {
                    Some(nap) => State::Napping(Trial { since: now, usual_rate: rate, nap }),
                    None => self.state,
                }
            }
            State::Napping(trial) => self.judge(now, trial, rate, per_wake),
        };
        (self.window_start, self.wakes, self.packets) = (now, 0, packets);
    }

    /// How long to sleep before the next turn, regardless of what arrives.
    pub(super) fn nap(&self) -> Option<Duration> {
        match self.state {
            State::Awake { .. } => None,
            State::Napping(trial) => Some(trial.nap),
        }
    }

    fn judge(&mut self, now: Instant, trial: Trial, rate: f64, per_nap: f64) -> State {
        if now.saturating_duration_since(trial.since) >= SUCCESS_AFTER {
            self.failures = 0;
        }
        if per_nap > BULK_PACKETS_PER_NAP {
            return State::Awake { until: now + BULK_DELAY };
        }
        if rate < MIN_PACKET_RATE {
            return State::Awake { until: now };
        }
        if rate < SLOWDOWN_RATIO * trial.usual_rate {
            let delay = FAILURE_DELAY * (1 << self.failures);
            self.failures = (self.failures + 1).min(MAX_FAILURES);
            return State::Awake { until: now + delay };
        }
        let usual_rate = trial.usual_rate + RATE_WEIGHT * (rate - trial.usual_rate);
        State::Napping(Trial { usual_rate, ..trial })
    }
}

fn nap(rate: f64, rtt: Duration) -> Option<Duration> {
    let nap = (rtt / RTT_DIVISOR).min(Duration::from_secs_f64(PACKETS_PER_NAP / rate));
    (rtt >= MIN_RTT).then(|| nap.clamp(MIN_NAP, MAX_NAP))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop under a simulated load.
    struct LoadedLoop {
        now: Instant,
        moderator: Moderator,
        packets: u64,
        turns: u32,
        naps: u32,
    }

    impl LoadedLoop {
        fn new() -> Self {
            let now = Instant::now();
            Self { now, moderator: Moderator::new(now), packets: 0, turns: 0, naps: 0 }
        }

        /// Runs for `time`; a turn takes 20 µs. `load` gets the time for which the loop has napped, and
        /// returns how much longer it has to wait and how many packets it then finds.
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
                self.moderator
                    .record_turn(self.now, self.packets, || Some(Duration::from_millis(20)));
            }
        }
    }

    const US: Duration = Duration::from_micros(1);

    /// One packet per `gap`, however long the loop sleeps.
    fn paced(gap: Duration) -> impl FnMut(Duration) -> (Duration, u64) {
        move |slept| {
            let waiting = (slept.as_secs_f64() / gap.as_secs_f64()) as u64;
            if waiting > 0 { (Duration::ZERO, waiting) } else { (gap, 1) }
        }
    }

    #[test]
    fn a_paced_flow_gets_naps_and_far_fewer_turns() {
        let mut it = LoadedLoop::new();
        it.run(Duration::from_secs(3), paced(60 * US));
        assert!(it.turns < 3 * 2500, "{} turns", it.turns);
        assert!(it.naps * 10 > it.turns * 9);
    }

    #[test]
    fn a_ping_every_2_ms_gets_none() {
        let mut it = LoadedLoop::new();
        it.run(Duration::from_secs(3), paced(2000 * US));
        assert_eq!(it.naps, 0);
    }

    #[test]
    fn a_bulk_flow_gets_none() {
        let mut it = LoadedLoop::new();
        it.run(Duration::from_secs(3), |_| (50 * US, 60));
        assert_eq!(it.naps, 0);
    }

    #[test]
    fn exchanges_that_wait_for_each_packet_are_hardly_slowed() {
        let mut it = LoadedLoop::new();
        // The answer takes 180 µs from the moment when the loop has sent the request.
        let mut exchange = |_: Duration| (180 * US, 2);
        it.run(Duration::from_secs(20), &mut exchange);
        let undisturbed = 20_000_000 / 200 * 2;
        assert!(it.naps > 0, "it was tried");
        assert!(it.packets * 100 > undisturbed * 99, "{} of {undisturbed}", it.packets);
    }

    #[test]
    fn a_flow_that_grows_into_bulk_gets_no_more() {
        let mut it = LoadedLoop::new();
        it.run(Duration::from_secs(1), paced(60 * US));
        assert!(it.naps > 0);
        it.run(Duration::from_millis(50), |slept| (10 * US, 10 + (slept.as_micros() / 5) as u64));
        it.run(Duration::from_secs(1), |_| (50 * US, 60));
        assert_eq!(it.naps, 0);
    }

    #[test]
    fn naps_end_with_the_traffic() {
        let mut it = LoadedLoop::new();
        it.run(Duration::from_secs(1), paced(60 * US));
        it.run(Duration::from_millis(100), paced(2000 * US));
        it.run(Duration::from_secs(1), paced(2000 * US));
        assert_eq!(it.naps, 0);
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
            let mut now = moderator.window_start;
            for turn in 1..=1000 {
                now += gap * US;
                moderator.record_turn(now, turn, || rtt.map(Duration::from_millis));
            }
            let nap = moderator.nap().unwrap_or_default();
            assert!(nap.abs_diff(expected * US) < 20 * US, "{nap:?}, not {expected} µs");
        }
    }
}
