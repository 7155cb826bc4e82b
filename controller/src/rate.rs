//! Rate limits: token buckets, and what counts as one source. Pure: the time is an argument.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// The limits of a [`TokenBucket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Tokens of a full bucket.
    pub(crate) burst: u32,
    /// After each such interval there is one more token.
    pub(crate) interval: Duration,
}

impl Rate {
    pub(crate) const fn per_second(burst: u32, tokens: u32) -> Self {
        Self { burst, interval: Duration::from_nanos(1_000_000_000 / tokens as u64) }
    }
}

/// A token bucket, stored as the time at which it will be full (the virtual scheduling of ITU-T I.371).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TokenBucket {
    /// `None` for a bucket that was never used.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let available = self.available_at(rate, now).is_none();
        if available {
            self.full_at = Some(self.full_at(now) + rate.interval);
        }
        available
    }

    /// Takes a token in any case. If there is none yet, returns the time at which there will be.
    pub(crate) fn reserve(&mut self, rate: Rate, now: Instant) -> Option<Instant> {
        let available_at = self.available_at(rate, now);
        self.full_at = Some(self.full_at(now) + rate.interval);
        available_at
    }

    pub(crate) fn has_token(&self, rate: Rate, now: Instant) -> bool {
        self.available_at(rate, now).is_none()
    }

    /// A full bucket need not be stored.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }

    /// The time of the next token, if that is in the future.
    fn available_at(&self, rate: Rate, now: Instant) -> Option<Instant> {
        let at = self.full_at(now).checked_sub(rate.interval * rate.burst.saturating_sub(1));
        at.filter(|at| *at > now)
    }

    fn full_at(&self, now: Instant) -> Instant {
        self.full_at.filter(|full_at| *full_at > now).unwrap_or(now)
    }
}

/// The address that a rate limit applies to: one IPv4 address, or the /64 of an IPv6 address, which is what one
/// customer gets.
pub(crate) fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_a_burst_and_fills_by_one_after_each_interval() {
        let rate = Rate { burst: 3, interval: Duration::from_secs(10) };
        let (mut bucket, start) = (TokenBucket::default(), Instant::now());
        let mut taken = |seconds| {
            let now = start + Duration::from_secs(seconds);
            (0..10).filter(|_| bucket.take(rate, now)).count()
        };
        assert_eq!([taken(0), taken(9), taken(10), taken(11), taken(30)], [3, 0, 1, 0, 2]);
        assert_eq!(taken(1000), 3, "never more than a burst");
        assert!(!bucket.is_full(start + Duration::from_secs(1029)));
        assert!(bucket.is_full(start + Duration::from_secs(1030)));
    }

    #[test]
    fn a_reserved_token_is_taken_from_those_that_come() {
        let rate = Rate { burst: 1, interval: Duration::from_secs(1) };
        let (mut bucket, now) = (TokenBucket::default(), Instant::now());
        assert_eq!(bucket.reserve(rate, now), None);
        assert_eq!(bucket.reserve(rate, now), Some(now + rate.interval));
        assert_eq!(bucket.reserve(rate, now), Some(now + rate.interval * 2));
        assert!(!bucket.has_token(rate, now + rate.interval * 2));
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let of = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
