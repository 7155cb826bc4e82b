//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);
const HEALTHY: Duration = Duration::from_secs(30);

/// Exponential back-off with full jitter: any delay from zero to a ceiling that doubles, so that
/// edges that were cut off together don't come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { ceiling: FIRST }
    }

    /// The next delay. `random` is from 0 to 1.
    pub(super) fn delay(&mut self, random: f64) -> Duration {
        let delay = self.ceiling.mul_f64(random.clamp(0.0, 1.0));
        self.ceiling = LONGEST.min(2 * self.ceiling);
        delay
    }

    /// A session has ended that lasted this long. Only a healthy one lets the next attempts be quick.
    pub(super) fn lasted(&mut self, session: Duration) {
        if session >= HEALTHY {
            self.ceiling = FIRST;
        }
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
        backoff.lasted(Duration::from_secs(29));
        assert_eq!(backoff.delay(1.0), LONGEST);
        backoff.lasted(Duration::from_secs(30));
        assert_eq!(backoff.delay(1.0), FIRST);
    }
}
