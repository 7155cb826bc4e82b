//! The wall clock, by which certificates are dated.

use std::time::{Duration, Instant};

/// Some platforms cannot represent times that are centuries away.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

#[derive(Debug)]
pub(super) struct WallClock {
    at: Instant,
    /// Time since 1970 at `at`.
    unix: Duration,
}

impl WallClock {
    pub(super) fn new(at: Instant, unix: Duration) -> Self {
        Self { at, unix }
    }

    /// The end of a certificate's last valid second, on the monotonic clock.
    pub(super) fn end_of(&self, now: Instant, not_after: u64) -> Instant {
        let unix = self.unix + now.saturating_duration_since(self.at);
        let left = Duration::from_secs(not_after.saturating_add(1)).saturating_sub(unix);
        now + left.min(MAX_LIFETIME)
    }
}
