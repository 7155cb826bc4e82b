//! Controlled delay (RFC 8289): which packets to drop, so that a standing queue gets shorter.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct CodelConfig {
    /// A wait that is always acceptable (RFC 8289 §4.3).
    pub(crate) target: Duration,
    /// How long the wait may be above the target before a packet is dropped: some round trips
    /// (RFC 8289 §4.2).
    pub(crate) interval: Duration,
}

/// The state of RFC 8289 §5.
#[derive(Debug, Default)]
pub(crate) struct Codel {
    /// When the wait will have been above the target for an interval.
    first_above: Option<Instant>,
    /// When the next packet is dropped, while in the dropping state.
    dropping: Option<Instant>,
    /// Packets dropped in the dropping state, and its value at the start of that state.
    count: u32,
    first_count: u32,
    /// When the next packet would have been dropped, had the dropping state not ended.
    next_if_continued: Option<Instant>,
}

impl Codel {
    /// Whether to drop the packet that leaves the queue at `now`, after it `waited`.
    #[inline]
    pub(crate) fn drops(&mut self, config: &CodelConfig, now: Instant, waited: Duration) -> bool {
        if waited < config.target {
            self.end_waiting();
            return false;
        }
        self.drops_after_target(config, now)
    }

    /// To be called when the wait is below the target, or the queue is nearly empty.
    #[inline]
    pub(crate) fn end_waiting(&mut self) {
        self.first_above = None;
        if let Some(next) = self.dropping.take() {
            self.next_if_continued = Some(next);
        }
    }

    #[cold]
    fn drops_after_target(&mut self, config: &CodelConfig, now: Instant) -> bool {
        let first_above = *self.first_above.get_or_insert(now + config.interval);
        match self.dropping {
            None if now >= first_above => self.start_dropping(config, now),
            Some(next) if now >= next => {
                self.count += 1;
                self.dropping = Some(next + config.spacing(self.count));
            }
            None | Some(_) => return false,
        }
        true
    }

    /// Continues at the last rate, if the last dropping state was not long ago.
    fn start_dropping(&mut self, config: &CodelConfig, now: Instant) {
        let recent = self
            .next_if_continued
            .is_some_and(|at| now.saturating_duration_since(at) < 16 * config.interval);
        self.count = if recent { (self.count - self.first_count).max(1) } else { 1 };
        self.first_count = self.count;
        self.dropping = Some(now + config.spacing(self.count));
    }
}

impl CodelConfig {
    /// The control law (RFC 8289 §5.2): shorter with every drop, until the flow slows down.
    fn spacing(&self, count: u32) -> Duration {
        self.interval.div_f64(f64::from(count).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const CONFIG: CodelConfig =
        CodelConfig { target: Duration::from_millis(5), interval: Duration::from_millis(100) };

    /// One packet each millisecond, which waited for `waited(ms)`: when packets are dropped.
    fn run(
        codel: &mut Codel,
        start: Instant,
        ms: u32,
        waited: impl Fn(u32) -> Duration,
    ) -> Vec<u32> {
        (0..ms).filter(|&at| codel.drops(&CONFIG, start + at * MS, waited(at))).collect()
    }

    #[test]
    fn short_waits_and_short_bursts_lose_nothing() {
        let start = Instant::now();
        let mut codel = Codel::default();
        assert!(run(&mut codel, start, 1000, |_| 4 * MS).is_empty());
        let sawtooth = |at: u32| if at.is_multiple_of(90) { MS } else { 40 * MS };
        assert!(
            run(&mut codel, start, 1000, sawtooth).is_empty(),
            "bursts shorter than an interval"
        );
    }

    #[test]
    fn a_standing_queue_loses_packets_ever_faster() {
        let dropped = run(&mut Codel::default(), Instant::now(), 1000, |_| 20 * MS);
        assert_eq!(dropped[0], 100);
        let gaps: Vec<u32> = dropped.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[0], 100);
        assert!(gaps.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{gaps:?}");
        assert!(*gaps.last().unwrap() < 35, "{gaps:?}");
    }

    #[test]
    fn after_a_short_pause_it_continues_at_its_last_rate() {
        let start = Instant::now();
        let mut codel = Codel::default();
        let first = run(&mut codel, start, 2000, |_| 20 * MS).len();
        assert!(!codel.drops(&CONFIG, start + 2000 * MS, MS));
        let again = run(&mut codel, start + 2001 * MS, 600, |_| 20 * MS);
        let fresh = run(&mut Codel::default(), start, 600, |_| 20 * MS);
        assert!(again.len() > 2 * fresh.len(), "{} then {again:?}, not {fresh:?}", first);
    }
}
