//! A rate limit for log lines that anybody on the network can cause.

use std::time::{Duration, Instant};

pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Allows one line per [`LOG_INTERVAL`], with the number of events since the line before.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    logged: Option<Instant>,
    events: u64,
}

impl LogLimit {
    /// Records one event. If it may be logged: the number of events since the last that was, this
    /// one included.
    pub(super) fn record(&mut self, now: Instant) -> Option<u64> {
        self.events += 1;
        if self.logged.is_some_and(|logged| now.duration_since(logged) < LOG_INTERVAL) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_logged_at_once_and_then_with_the_count_of_those_in_between() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        assert_eq!(limit.record(start), Some(1));
        assert_eq!(limit.record(start + LOG_INTERVAL / 2), None);
        assert_eq!(limit.record(start + LOG_INTERVAL / 2), None);
        assert_eq!(limit.record(start + LOG_INTERVAL), Some(3));
    }
}
