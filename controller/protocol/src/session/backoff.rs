//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);
const HEALTHY: Duration = Duration::from_secs(30);
/// The most before the first attempt after a session that stood was lost.
const AT_ONCE: Duration = Duration::from_millis(100);
/// From when on a session stood: one that is lost again and again does not come back faster than this.
const STOOD: Duration = Duration::from_secs(3);

/// Exponential back-off with full jitter: any delay from zero to a ceiling that doubles, so that
/// edges that were cut off together don't come back together. A session that stood and was lost is
/// first tried for at once: mostly the controller was only restarted.
#[derive(Debug)]
pub(super) struct Backoff {
    ceiling: Duration,
    at_once: bool,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { ceiling: FIRST, at_once: false }
    }

    /// The next delay. `random` is from 0 to 1.
    pub(super) fn delay(&mut self, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        if std::mem::take(&mut self.at_once) {
            return AT_ONCE.mul_f64(random);
        }
        let delay = self.ceiling.mul_f64(random);
        self.ceiling = LONGEST.min(2 * self.ceiling);
        delay
    }

    /// A session has ended that lasted this long, `lost` or by somebody's decision. Only a healthy one
    /// lets the next attempts be quick.
    pub(super) fn lasted(&mut self, session: Duration, lost: bool) {
        if session >= HEALTHY {
            self.ceiling = FIRST;
        }
        self.at_once = lost && session >= STOOD;
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
    fn only_a_healthy_session_makes_it_start_over() {
        let mut backoff = Backoff::new();
        while backoff.delay(1.0) < LONGEST {}
        backoff.lasted(Duration::from_secs(29), false);
        assert_eq!(backoff.delay(1.0), LONGEST);
        backoff.lasted(Duration::from_secs(30), false);
        assert_eq!(backoff.delay(1.0), FIRST);
    }

    #[test]
    fn a_lost_session_is_tried_for_at_once_and_only_once() {
        let mut backoff = Backoff::new();
        while backoff.delay(1.0) < LONGEST {}
        backoff.lasted(Duration::from_secs(3), true);
        assert_eq!(backoff.delay(1.0), AT_ONCE);
        assert_eq!(backoff.delay(1.0), LONGEST);
        backoff.lasted(Duration::from_secs(2), true);
        assert_eq!(backoff.delay(1.0), LONGEST, "it had not stood yet");
    }
}
