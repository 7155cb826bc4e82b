//! Which handshakes of strangers are begun, and which have to prove their address first.
//!
//! A handshake costs this edge a thousand times what its first packet costs the sender. A sender
//! that has not proven its address may be anybody, so all of those share one small budget; past it
//! they get a Retry (RFC 9000 §8.1.2), which costs nothing to remember and which a spoofed source
//! cannot answer. Sources that have proven themselves are limited each on its own.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Handshakes one source may begin at once, and again over [`REFILL`].
const BURST: f64 = 32.0;
/// The same for all sources together that have not proven their address.
const UNPROVEN_BURST: f64 = 64.0;
/// The time in which an empty bucket is full again.
const REFILL: Duration = Duration::from_secs(2);
/// Unfinished handshakes from which on all sources have to prove their address.
const RETRY_FROM: usize = 32;
/// Unfinished handshakes beyond which new ones are ignored.
const MAX_UNFINISHED: usize = 512;
/// Sources remembered. When it is full, the bound on unfinished handshakes is what remains.
const MAX_SOURCES: usize = 4096;
/// Sources at rest are forgotten so often, at most.
const SWEEP: Duration = Duration::from_millis(250);

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
    sources: HashMap<IpAddr, Bucket>,
    swept: Option<Instant>,
}

impl Admissions {
    /// Decides about a first packet from `source`, whose address is `validated` or not.
    /// `unfinished` handshakes are under way.
    pub(crate) fn decide(
        &mut self,
        now: Instant,
        source: IpAddr,
        validated: bool,
        unfinished: usize,
    ) -> Admission {
        if !validated {
            let bucket = self.unproven.get_or_insert(Bucket::full(now, UNPROVEN_BURST));
            let granted = unfinished < RETRY_FROM && bucket.take(now, UNPROVEN_BURST);
            return if granted { Admission::Accept } else { Admission::Retry };
        }
        if unfinished < MAX_UNFINISHED && self.take(now, site_of(source)) {
            Admission::Accept
        } else {
            Admission::Ignore
        }
    }

    fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        if self.sources.len() >= MAX_SOURCES {
            self.sweep(now);
        }
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            return true;
        }
        self.sources.entry(source).or_insert(Bucket::full(now, BURST)).take(now, BURST)
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.sources.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < REFILL);
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(now: Instant, burst: f64) -> Self {
        Self { tokens: burst, filled: now }
    }

    fn take(&mut self, now: Instant, burst: f64) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * burst / REFILL.as_secs_f64()).min(burst);
        self.filled = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
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
    fn a_proven_source_has_a_burst_and_earns_it_back() {
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
        assert_eq!(admissions.decide(now + REFILL, source, true, 0), Admission::Accept);
    }

    #[test]
    fn sources_that_prove_nothing_share_a_budget_and_leave_nothing_behind() {
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
    fn addresses_of_one_ipv6_site_share_a_bucket_and_a_full_memory_shuts_nobody_out() {
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
