//! How many records without a change one source may cause. Pure: the time is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::rate::{Rate, TokenBucket};

/// Sources with a bucket of their own. It limits the memory; more sources share the common bucket.
const MAX_SOURCES: usize = 1024;

/// Why a record is written without a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The call was allowed: a dry run, or it changed nothing, or handed something out.
    Allowed,
    /// The call failed.
    Refused,
}

impl Kind {
    /// The rates of one source, and of all together. At the common rate, refusals take a week to fill a log of the
    /// default size. A caller that may change things can fill it by changes anyway.
    fn rates(self) -> (Rate, Rate) {
        let rate = |burst, millis| Rate { burst, interval: Duration::from_millis(millis) };
        match self {
            Self::Allowed => (rate(200, 1_000), rate(1_000, 500)),
            Self::Refused => (rate(20, 600_000), rate(200, 60_000)),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Limiter {
    sources: HashMap<(Kind, String), TokenBucket>,
    common: HashMap<Kind, TokenBucket>,
}

impl Limiter {
    /// Whether one more record may be written.
    pub(super) fn admit(&mut self, kind: Kind, source: String, now: Instant) -> bool {
        let (of_source, of_all) = kind.rates();
        if self.sources.len() >= MAX_SOURCES {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
        }
        let common = self.common.entry(kind).or_default();
        if !common.has_token(of_all, now) {
            return false;
        }
        let key = (kind, source);
        let has_bucket = self.sources.contains_key(&key) || self.sources.len() < MAX_SOURCES;
        if has_bucket && !self.sources.entry(key).or_default().take(of_source, now) {
            return false;
        }
        common.take(of_all, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(
        limiter: &mut Limiter,
        kind: Kind,
        source: &str,
        calls: usize,
        at: Instant,
    ) -> usize {
        (0..calls).filter(|_| limiter.admit(kind, source.to_owned(), at)).count()
    }

    #[test]
    fn a_source_that_misbehaves_has_few_records_and_leaves_others_theirs() {
        let started = Instant::now();
        let mut limiter = Limiter::default();
        let mut bad = 0;
        // A thousand a second for an hour.
        for second in 0..3600 {
            let at = started + Duration::from_secs(second);
            bad += admitted(&mut limiter, Kind::Refused, "edge/prod/bad", 1000, at);
        }
        assert_eq!(bad, 20 + 5);
        let at = started + Duration::from_secs(3600);
        assert_eq!(admitted(&mut limiter, Kind::Refused, "admin/alice", 5, at), 5);
        assert_eq!(admitted(&mut limiter, Kind::Allowed, "edge/prod/bad", 5, at), 5);
    }

    #[test]
    fn many_sources_share_what_all_have() {
        let started = Instant::now();
        let mut limiter = Limiter::default();
        let mut together = 0;
        for minute in 0..60 {
            for source in 0..5000 {
                let at = started + Duration::from_secs(60 * minute);
                together += admitted(&mut limiter, Kind::Refused, &format!("10.0.{source}"), 1, at);
            }
            assert!(limiter.sources.len() <= MAX_SOURCES);
        }
        assert_eq!(together, 200 + 59);
    }
}
