//! The controller's clock, and whether it can be trusted.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Seconds since the Unix epoch. Tests have their own.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How long a clock must run without a jump before it is trusted, after a start or a jump.
const TRUSTED_AFTER: Duration = Duration::from_secs(3_600);
/// Seconds by which the clock may be corrected without counting as a jump.
const MAX_CORRECTION: u64 = 300;

/// Compares the wall clock with the monotonic one. If the wall clock were years ahead for a minute, and trusted,
/// everything would count as expired and be deleted for good.
#[derive(Debug)]
pub(crate) struct JumpDetector {
    wall: u64,
    since: Instant,
}

impl JumpDetector {
    pub(crate) fn new(wall: u64, since: Instant) -> Self {
        Self { wall, since }
    }

    /// Whether the clock has not jumped for [`TRUSTED_AFTER`].
    pub(crate) fn is_trusted(&mut self, wall: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if wall.abs_diff(self.wall.saturating_add(passed.as_secs())) > MAX_CORRECTION {
            *self = Self::new(wall, now);
            return false;
        }
        passed >= TRUSTED_AFTER
    }
}

/// The system's clock in Unix milliseconds.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_trusted_after_an_hour_without_a_jump() {
        let started = Instant::now();
        let at = |minutes: u64| started + Duration::from_secs(60 * minutes);
        let mut jumps = JumpDetector::new(1_000_000, started);
        assert!(!jumps.is_trusted(1_000_000, started));
        assert!(!jumps.is_trusted(1_000_000 + 59 * 60, at(59)));
        assert!(jumps.is_trusted(1_000_000 + 61 * 60, at(61)));
        let ahead = 1_000_000 + 10 * 365 * 86_400;
        assert!(!jumps.is_trusted(ahead + 70 * 60, at(70)), "it was set");
        assert!(!jumps.is_trusted(1_000_000 + 80 * 60, at(80)), "and set back");
        assert!(jumps.is_trusted(1_000_000 + 141 * 60, at(141)));
    }
}
