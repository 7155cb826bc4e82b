//! Delays between attempts to connect.

use std::time::Duration;

const MIN_CEILING: Duration = Duration::from_millis(250);
const MAX_CEILING: Duration = Duration::from_secs(10);
/// A session of this length resets the back-off.
const HEALTHY: Duration = Duration::from_secs(30);
/// Maximum delay of the first attempt after an established session was lost.
const QUICK_DELAY: Duration = Duration::from_millis(100);
/// A session of this length was established. One that is lost again and again is not retried faster.
const ESTABLISHED: Duration = Duration::from_secs(3);

/// The delay of a process that was refused because another host uses its identity, and as much again at random. The
/// other one may end at any time; what is known of the two is forgotten after eight seconds.
const IN_USE_DELAY: Duration = Duration::from_millis(2500);

/// The delay of a process that was refused for another one. `random` is from 0 to 1.
pub(super) fn in_use_delay(random: f64) -> Duration {
    IN_USE_DELAY.mul_f64(1.0 + random.clamp(0.0, 1.0))
}

/// Exponential back-off with full jitter: a random delay from zero to a ceiling that doubles, so that
/// edges that lost their sessions together don't reconnect together. The first attempt after an
/// established session was lost is quick, because mostly the controller was only restarted.
#[derive(Debug)]
pub(super) struct Backoff {
    ceiling: Duration,
    quick: bool,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { ceiling: MIN_CEILING, quick: false }
    }

    /// `random` is from 0 to 1.
    pub(super) fn delay(&mut self, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        if std::mem::take(&mut self.quick) {
            return QUICK_DELAY.mul_f64(random);
        }
        let delay = self.ceiling.mul_f64(random);
        self.ceiling = MAX_CEILING.min(2 * self.ceiling);
        delay
    }

    /// Records the length of a session that has ended; `lost` unless a side closed it on purpose.
    pub(super) fn record_session(&mut self, session: Duration, lost: bool) {
        if session >= HEALTHY {
            self.ceiling = MIN_CEILING;
        }
        self.quick = lost && session >= ESTABLISHED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_from_a_quarter_second_to_ten() {
        let mut backoff = Backoff::new();
        let ceilings: Vec<_> = (0..8).map(|_| backoff.delay(1.0).as_millis()).collect();
        assert_eq!(ceilings, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn the_jitter_is_full() {
        let mut backoff = Backoff::new();
        backoff.delay(1.0);
        assert_eq!(backoff.delay(0.0), Duration::ZERO);
        assert_eq!(backoff.delay(0.5), Duration::from_millis(500));
    }

    #[test]
    fn only_a_healthy_session_resets_the_ceiling() {
        let mut backoff = Backoff::new();
        while backoff.delay(1.0) < MAX_CEILING {}
        backoff.record_session(Duration::from_secs(29), false);
        assert_eq!(backoff.delay(1.0), MAX_CEILING);
        backoff.record_session(Duration::from_secs(30), false);
        assert_eq!(backoff.delay(1.0), MIN_CEILING);
    }

    #[test]
    fn a_lost_session_is_retried_quickly_and_only_once() {
        let mut backoff = Backoff::new();
        while backoff.delay(1.0) < MAX_CEILING {}
        backoff.record_session(Duration::from_secs(3), true);
        assert_eq!(backoff.delay(1.0), QUICK_DELAY);
        assert_eq!(backoff.delay(1.0), MAX_CEILING);
        backoff.record_session(Duration::from_secs(2), true);
        assert_eq!(backoff.delay(1.0), MAX_CEILING, "it was not established");
    }
}
