//! Points in time, for people and for JSON.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Seconds since the Unix epoch; in JSON and text RFC 3339 in UTC, `2026-02-01T12:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// How long ago: `3m`; `0s` if it is yet to come.
    pub fn age(self, now: u64) -> String {
        short(Duration::from_secs(now.saturating_sub(self.0)))
    }

    /// How long until then: `29d`; `expired` if it is over.
    pub fn left(self, now: u64) -> String {
        match self.0.saturating_sub(now) {
            0 => "expired".to_owned(),
            seconds => short(Duration::from_secs(seconds)),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = i64::try_from(self.0)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .and_then(|moment| moment.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            // Beyond the year 9999, which RFC 3339 cannot write.
            None => f.write_str("9999-12-31T23:59:59Z"),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Milliseconds since the Unix epoch; in JSON and text RFC 3339 in UTC, `2026-02-01T12:00:00.042Z`. Read as the
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = Moment(self.0 / 1000).to_string();
        write!(f, "{}.{:03}Z", second.trim_end_matches('Z'), self.0 % 1000)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A length of time in its largest unit or two: `45s`, `12m`, `5h`, `3d12h`, `29d`.
pub fn short(length: Duration) -> String {
    let seconds = length.as_secs();
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
        _ if seconds == 0 && !length.is_zero() => format!("{}ms", length.as_millis()),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_short() {
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
    fn a_moment_is_rfc_3339_whatever_its_number() {
        assert_eq!(Moment(1_767_225_600).to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(Moment(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(serde_json::to_string(&Moment(0)).unwrap(), "\"1970-01-01T00:00:00Z\"");
    }

    #[test]
    fn milliseconds_have_three_digits() {
        assert_eq!(Millis(1_767_225_600_042).to_string(), "2026-01-01T00:00:00.042Z");
        assert_eq!(serde_json::to_string(&Millis(7)).unwrap(), "\"1970-01-01T00:00:00.007Z\"");
    }

    #[test]
    fn what_is_over_is_not_left() {
        assert_eq!(Moment(100).left(40), "1m");
        assert_eq!(Moment(100).left(100), "expired");
        assert_eq!(Moment(100).age(40), "0s");
    }
}
