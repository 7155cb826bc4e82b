//! Times and durations, for people and for JSON.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Seconds since the Unix epoch. Written as RFC 3339 in UTC: `2026-02-01T12:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How long ago, such as `3m`; `0s` for a time in the future.
    pub fn age(self, now: u64) -> String {
        short(Duration::from_secs(now.saturating_sub(self.0)))
    }

    /// How long until then, such as `29d`, or `expired`.
    pub fn left(self, now: u64) -> String {
        match self.0.saturating_sub(now) {
            0 => "expired".to_owned(),
            seconds => short(Duration::from_secs(seconds)),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = i64::try_from(self.0)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .and_then(|time| time.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            // Beyond the year 9999, which RFC 3339 cannot write.
            None => f.write_str("9999-12-31T23:59:59Z"),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Milliseconds since the Unix epoch. Written as RFC 3339 in UTC, `2026-02-01T12:00:00.042Z`, and read
/// as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct TimestampMillis(pub u64);

impl fmt::Display for TimestampMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = Timestamp(self.0 / 1000).to_string();
        write!(f, "{}.{:03}Z", second.trim_end_matches('Z'), self.0 % 1000)
    }
}

impl Serialize for TimestampMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A duration in its one or two largest units: `45s`, `12m`, `5h`, `3d12h`, `29d`.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (10.., ..) => format!("{days}d"),
        (1.., ..) if hours.is_multiple_of(24) => format!("{days}d"),
        (1.., ..) => format!("{days}d{}h", hours % 24),
        (_, 10.., _) => format!("{hours}h"),
        (_, 1.., _) if minutes.is_multiple_of(60) => format!("{hours}h"),
        (_, 1.., _) => format!("{hours}h{}m", minutes % 60),
        (_, _, 10..) => format!("{minutes}m"),
        (_, _, 1..) if seconds.is_multiple_of(60) => format!("{minutes}m"),
        (_, _, 1..) => format!("{minutes}m{}s", seconds % 60),
        _ if seconds == 0 && !duration.is_zero() => format!("{}ms", duration.as_millis()),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (90, "1m30s"),
            (3600, "1h"),
            (5400, "1h30m"),
            (36_000, "10h"),
            (86_400, "1d"),
            (90_000, "1d1h"),
            (2_592_000, "30d"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
        assert_eq!(short(Duration::from_millis(250)), "250ms");
    }

    #[test]
    fn every_timestamp_is_written_as_rfc_3339() {
        assert_eq!(Timestamp(1_767_225_600).to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(Timestamp(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(serde_json::to_string(&Timestamp(0)).unwrap(), "\"1970-01-01T00:00:00Z\"");
    }

    #[test]
    fn milliseconds_have_three_digits() {
        assert_eq!(TimestampMillis(1_767_225_600_042).to_string(), "2026-01-01T00:00:00.042Z");
        assert_eq!(
            serde_json::to_string(&TimestampMillis(7)).unwrap(),
            "\"1970-01-01T00:00:00.007Z\""
        );
    }

    #[test]
    fn nothing_is_left_of_a_time_that_has_passed() {
        assert_eq!(Timestamp(100).left(40), "1m");
        assert_eq!(Timestamp(100).left(100), "expired");
        assert_eq!(Timestamp(100).age(40), "0s");
    }
}
