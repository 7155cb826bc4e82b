//! Which handshakes of strangers are begun, and which have to prove their address first.
//!
//! A handshake costs this edge a thousand times what its first packet costs the sender. Sources
//! are limited each by a token bucket; past a number of unfinished handshakes every new one gets a
//! Retry (RFC 9000 §8.1.2), which a spoofed source cannot answer.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Handshakes one source may begin at once, and again over [`REFILL`].
const BURST: f64 = 32.0;
/// The time in which an empty bucket is full again.
const REFILL: Duration = Duration::from_secs(2);
/// Unfinished handshakes from which on sources have to prove their address.
const RETRY_FROM: usize = 32;
/// Unfinished handshakes beyond which new ones are ignored.
const MAX_UNFINISHED: usize = 512;
/// Sources remembered. Beyond it those at rest are forgotten, which loses nothing.
const MAX_SOURCES: usize = 4096;

/// What to do with a first packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    Accept,
    Retry,
    Ignore,
}

#[derive(Debug, Default)]
pub(crate) struct Admissions {
    sources: HashMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Admissions {
    /// Decides about a first packet from `source`. `unfinished` handshakes are under way.
    pub(crate) fn decide(
        &mut self,
        now: Instant,
        source: IpAddr,
        validated: bool,
        unfinished: usize,
    ) -> Admission {
        if unfinished >= MAX_UNFINISHED {
            return Admission::Ignore;
        }
        if !validated && unfinished >= RETRY_FROM {
            return Admission::Retry;
        }
        if self.take(now, site_of(source)) {
            Admission::Accept
        } else if validated {
            Admission::Ignore
        } else {
            Admission::Retry
        }
    }

    fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        if self.sources.len() >= MAX_SOURCES {
            self.sources.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < REFILL);
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let bucket = self.sources.entry(source).or_insert(Bucket { tokens: BURST, filled: now });
        let elapsed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * BURST / REFILL.as_secs_f64()).min(BURST);
        bucket.filled = now;
        let granted = bucket.tokens >= 1.0;
        if granted {
            bucket.tokens -= 1.0;
        }
        granted
    }
}

/// One IPv6 site has a whole /64 to send from.
fn site_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_burst_and_earns_it_back() {
        let now = Instant::now();
        let mut admissions = Admissions::default();
        let source: IpAddr = "203.0.113.7".parse().unwrap();
        let taken = (0..100)
            .filter(|_| admissions.decide(now, source, false, 0) == Admission::Accept)
            .count();
        assert_eq!(taken, 32);
        assert_eq!(admissions.decide(now, source, true, 0), Admission::Ignore);
        let other = "203.0.113.8".parse().unwrap();
        assert_eq!(admissions.decide(now, other, false, 0), Admission::Accept);
        assert_eq!(admissions.decide(now + REFILL, source, false, 0), Admission::Accept);
    }

    #[test]
    fn under_load_addresses_are_proven_first() {
        let now = Instant::now();
        let mut admissions = Admissions::default();
        let source = "2001:db8::1".parse().unwrap();
        assert_eq!(admissions.decide(now, source, false, RETRY_FROM), Admission::Retry);
        assert_eq!(admissions.decide(now, source, true, RETRY_FROM), Admission::Accept);
        assert_eq!(admissions.decide(now, source, true, MAX_UNFINISHED), Admission::Ignore);
    }

    #[test]
    fn addresses_of_one_ipv6_site_share_a_bucket_and_memory_is_bounded() {
        let now = Instant::now();
        let mut admissions = Admissions::default();
        for host in 0..40_u16 {
            let source = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host).into();
            admissions.decide(now, source, false, 0);
        }
        assert_eq!(admissions.sources.len(), 1);
        for host in 0..10_000_u32 {
            admissions.decide(now, IpAddr::V4(host.into()), false, 0);
        }
        assert!(admissions.sources.len() <= MAX_SOURCES);
    }
}
