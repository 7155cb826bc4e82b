//! How many records a source may cause. Pure: the time is an argument.

use std::{collections::HashMap, time::Instant};

/// Sources that are told apart; a limit on what they cost, and more share the common allowance.
const SOURCES: usize = 1024;

/// Why a record is written by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The call was allowed: it was rehearsed, changed nothing, or handed something out.
    Allowed,
    /// It was not done.
    Refused,
}

/// So many at once, and one more after each of so many seconds.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    seconds: f64,
}

impl Kind {
    /// Of one source, and of all together. At the latter's pace refusals take a week to fill the log of the
    /// default size; whoever may change things fills it by changes anyway.
    fn rates(self) -> (Rate, Rate) {
        match self {
            Self::Allowed => {
                (Rate { burst: 200.0, seconds: 1.0 }, Rate { burst: 1000.0, seconds: 0.5 })
            }
            Self::Refused => {
                (Rate { burst: 20.0, seconds: 600.0 }, Rate { burst: 200.0, seconds: 60.0 })
            }
        }
    }
}

/// What is left of a rate.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() / rate.seconds;
        *self = Self { left: (self.left + gained).min(rate.burst), at: now };
    }
}

#[derive(Debug, Default)]
pub(super) struct Limiter {
    sources: HashMap<(Kind, String), Bucket>,
    all: HashMap<Kind, Bucket>,
}

impl Limiter {
    /// Whether one more may be written.
    pub(super) fn admit(&mut self, kind: Kind, source: String, now: Instant) -> bool {
        let (each, together) = kind.rates();
        if self.sources.len() >= SOURCES {
            self.sources.retain(|(kind, _), bucket| {
                let (rate, _) = kind.rates();
                bucket.refill(rate, now);
                bucket.left < rate.burst
            });
        }
        let key = (kind, source);
        let known = self.sources.contains_key(&key) || self.sources.len() < SOURCES;
        let all = self.all.entry(kind).or_insert_with(|| Bucket::full(together, now));
        all.refill(together, now);
        if all.left < 1.0 {
            return false;
        }
        if known {
            let own = self.sources.entry(key).or_insert_with(|| Bucket::full(each, now));
            own.refill(each, now);
            if own.left < 1.0 {
                return false;
            }
            own.left -= 1.0;
        }
        all.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let begun = Instant::now();
        let mut limiter = Limiter::default();
        let mut bad = 0;
        // A thousand a second for an hour.
        for second in 0..3600 {
            let at = begun + Duration::from_secs(second);
            bad += admitted(&mut limiter, Kind::Refused, "edge/prod/bad", 1000, at);
        }
        assert_eq!(bad, 20 + 5);
        let at = begun + Duration::from_secs(3600);
        assert_eq!(admitted(&mut limiter, Kind::Refused, "admin/alice", 5, at), 5);
        assert_eq!(admitted(&mut limiter, Kind::Allowed, "edge/prod/bad", 5, at), 5);
    }

    #[test]
    fn many_sources_share_what_all_have() {
        let begun = Instant::now();
        let mut limiter = Limiter::default();
        let mut together = 0;
        for minute in 0..60 {
            for source in 0..5000 {
                let at = begun + Duration::from_secs(60 * minute);
                together += admitted(&mut limiter, Kind::Refused, &format!("10.0.{source}"), 1, at);
            }
            assert!(limiter.sources.len() <= SOURCES);
        }
        assert_eq!(together, 200 + 59);
    }
}
