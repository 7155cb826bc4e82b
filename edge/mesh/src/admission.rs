//! Admission of strangers' handshakes: which are accepted, and which must first prove their
//! address.
//!
//! A handshake costs this edge a thousand times as much as its first packet costs the sender. A
//! sender that has not proven its address may be anybody, so all of these share one small budget;
//! beyond it they get a Retry (RFC 9000 §8.1.2), which needs no state and which a spoofed source
//! cannot answer. Each source with a proven address has a rate limit of its own.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Handshakes that one source may start at once, and again in each [`REFILL_TIME`].
const BURST: f64 = 32.0;
/// Handshakes of all sources together that have not proven their address.
const UNPROVEN_BURST: f64 = 64.0;
/// Path probes that are answered, of all sources together.
const PROBE_BURST: f64 = 256.0;
/// The time in which an empty bucket becomes full.
const REFILL_TIME: Duration = Duration::from_secs(2);
/// With this many unfinished handshakes all sources must prove their address.
pub(crate) const RETRY_FROM: usize = 32;
/// With this many unfinished handshakes new ones are ignored.
const MAX_UNFINISHED: usize = 512;
/// Sources with a bucket. Those beyond this number are limited by [`MAX_UNFINISHED`] alone.
const MAX_SOURCES: usize = 4096;
/// Minimum time between two removals of full buckets.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Datagrams with a long header (RFC 9000 §17.2) at one instant, that is, in one turn of the host's
/// loop. Each may cost as much as a hundred packets of data, and anybody can send them.
const MAX_HANDSHAKE_DATAGRAMS: u32 = 32;

/// What to do with a first packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    Accept,
    Retry,
    Ignore,
}

#[derive(Debug, Default)]
pub(crate) struct Admissions {
    unproven: Option<Bucket>,
    probes: Option<Bucket>,
    sources: HashMap<IpAddr, Bucket>,
    swept: Option<Instant>,
    /// Handshake datagrams admitted at this instant.
    datagrams: Option<(Instant, u32)>,
}

impl Admissions {
    /// Whether this turn may handle one more datagram with a long header.
    pub(crate) fn admit_datagram(&mut self, now: Instant) -> bool {
        let count = match self.datagrams {
            Some((turn, count)) if turn == now => count + 1,
            Some(_) | None => 1,
        };
        self.datagrams = Some((now, count));
        count <= MAX_HANDSHAKE_DATAGRAMS
    }

    /// Whether one more path probe may be answered.
    pub(crate) fn admit_probe(&mut self, now: Instant) -> bool {
        self.probes.get_or_insert(Bucket::full(now, PROBE_BURST)).try_take(now, PROBE_BURST)
    }

    /// Decides about a first packet. `validated`: the source has answered a Retry. `unfinished`:
    /// the number of handshakes under way.
    pub(crate) fn decide(
        &mut self,
        now: Instant,
        source: IpAddr,
        validated: bool,
        unfinished: usize,
    ) -> Admission {
        if !validated {
            let bucket = self.unproven.get_or_insert(Bucket::full(now, UNPROVEN_BURST));
            let granted = unfinished < RETRY_FROM && bucket.try_take(now, UNPROVEN_BURST);
            return if granted { Admission::Accept } else { Admission::Retry };
        }
        if unfinished < MAX_UNFINISHED && self.take_token(now, bucket_address(source)) {
            Admission::Accept
        } else {
            Admission::Ignore
        }
    }

    fn take_token(&mut self, now: Instant, source: IpAddr) -> bool {
        if self.sources.len() >= MAX_SOURCES {
            self.sweep(now);
        }
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            return true;
        }
        self.sources.entry(source).or_insert(Bucket::full(now, BURST)).try_take(now, BURST)
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_INTERVAL) {
            return;
        }
        self.swept = Some(now);
        self.sources.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < REFILL_TIME);
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(now: Instant, burst: f64) -> Self {
        Self { tokens: burst, filled: now }
    }

    fn try_take(&mut self, now: Instant, burst: f64) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * burst / REFILL_TIME.as_secs_f64()).min(burst);
        self.filled = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

/// Addresses of one IPv6 /64 share a bucket: one customer has all of them.
fn bucket_address(address: IpAddr) -> IpAddr {
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
    fn a_proven_source_has_a_burst_that_refills() {
        let now = Instant::now();
        let mut admissions = Admissions::default();
        let source: IpAddr = "203.0.113.7".parse().unwrap();
        let taken = (0..100)
            .filter(|_| admissions.decide(now, source, true, 0) == Admission::Accept)
            .count();
        assert_eq!(taken, 32);
        assert_eq!(admissions.decide(now, source, true, 0), Admission::Ignore);
        let other = "203.0.113.8".parse().unwrap();
        assert_eq!(admissions.decide(now, other, true, 0), Admission::Accept);
        assert_eq!(admissions.decide(now + REFILL_TIME, source, true, 0), Admission::Accept);
    }

    #[test]
    fn sources_with_unproven_addresses_share_a_budget_and_need_no_memory() {
        let now = Instant::now();
        let mut admissions = Admissions::default();
        let accepted = (0..10_000_u32)
            .filter(|&host| {
                admissions.decide(now, IpAddr::V4(host.into()), false, 0) == Admission::Accept
            })
            .count();
        assert_eq!(accepted, 64);
        assert!(admissions.sources.is_empty());
        let honest = "203.0.113.7".parse().unwrap();
        assert_eq!(admissions.decide(now, honest, false, 0), Admission::Retry);
        assert_eq!(admissions.decide(now, honest, true, 0), Admission::Accept);
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
    fn addresses_of_one_ipv6_64_share_a_bucket_and_a_full_table_refuses_nobody() {
        let now = Instant::now();
        let mut admissions = Admissions::default();
        for host in 0..40_u16 {
            let source = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, host).into();
            admissions.decide(now, source, true, 0);
        }
        assert_eq!(admissions.sources.len(), 1);
        for host in 0..10_000_u32 {
            let source = IpAddr::V4(host.into());
            assert_eq!(admissions.decide(now, source, true, 0), Admission::Accept);
        }
        assert!(admissions.sources.len() <= MAX_SOURCES);
    }
}
