//! Who gets a handshake. A handshake costs a signature here and a packet there, so it is rationed
//! before anything is computed.
//!
//! - Few handshakes under way: everybody.
//! - More: an address has to show that it can receive (Retry, RFC 9000 §8.1.2), which costs no state.
//! - Each address that has, and every address while few are under way, has a budget that refills.
//!   Whoever has used it up is ignored; QUIC tries again by itself.
//! - At most so many handshakes at once, fewer than are done before a client gives up: who comes then is refused,
//!   before anything is computed. And at most so many connections.
//! - Of these handshakes one address has a share, so that one that begins them and finishes none leaves places to
//!   others. Only those of its own count, for which it has shown that it is there: the rest are few, and may be somebody
//!   else's who uses its name.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// Limits of one port.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handshakes under way from which addresses are validated first.
    pub validate_from: usize,
    /// Handshakes under way at most.
    pub handshakes: usize,
    /// Handshakes under way of one source at most, of those whose address was validated. With
    /// [`validate_from`](Self::validate_from) less than [`handshakes`](Self::handshakes): the difference is what no
    /// single host can take.
    pub share: u32,
    /// Connections at most.
    pub connections: usize,
    /// Handshakes that one source may have at once.
    pub burst: u32,
    /// Handshakes per second that one source's budget refills by.
    pub per_second: u32,
    /// Connections that one source may have at once.
    pub per_source: u32,
}

impl Limits {
    /// Of the control port: a thousand edges behind one address come back within seconds.
    ///
    /// Handshakes under way share the processors, and a client gives up after 4 s: 64 are done in time by a machine that
    /// does 20 in a second. With more under way than it can do in time it would do none.
    pub const CONTROL: Self = Self {
        validate_from: 16,
        handshakes: 64,
        share: 32,
        connections: 16_384,
        burst: 1_024,
        per_second: 256,
        per_source: 16_384,
    };
    /// Of the enrolment port, where anybody may knock: who holds all that one source can get leaves most of
    /// the port to others.
    pub const ENROLL: Self = Self {
        validate_from: 16,
        handshakes: 128,
        share: 64,
        connections: 1_024,
        burst: 128,
        per_second: 16,
        per_source: 128,
    };
}

/// What to do with a connection attempt.
#[derive(Debug)]
pub enum Verdict {
    /// Go on with the handshake. The place is kept until this is dropped.
    Accept(Place),
    /// Have the address validated.
    Retry,
    /// Say that there is too much to do. QUIC's client ends the attempt, and comes back after a while that it has from
    /// chance; ignored, it would ask four times in as many seconds, and thousands of them would fill the socket that
    /// the sessions' packets come by.
    Refuse(&'static str),
    /// Say nothing.
    Ignore(&'static str),
}

/// Sources that are kept account of.
const SOURCES: usize = 16_384;

/// The account of one port.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    handshakes: AtomicUsize,
    connections: AtomicUsize,
    sources: Mutex<HashMap<IpAddr, Budget>>,
}

#[derive(Debug, Clone, Copy)]
struct Budget {
    left: f64,
    at: Instant,
    /// Connections, handshakes under way included.
    held: u32,
    /// Handshakes under way whose address was validated.
    shaking: u32,
}

/// A connection's place; of the handshakes too until [`established`](Self::established).
#[derive(Debug)]
pub struct Place {
    counts: Arc<Counts>,
    source: IpAddr,
    validated: bool,
    shaking: bool,
}

impl Admission {
    /// With these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, counts: Arc::default() }
    }

    /// Decides about an attempt. `validated`: the address has answered a Retry.
    pub fn judge(&self, from: SocketAddr, validated: bool, now: Instant) -> Verdict {
        let shaking = self.counts.handshakes.load(Ordering::Relaxed);
        if shaking >= self.limits.handshakes {
            return Verdict::Refuse("busy");
        }
        if shaking >= self.limits.validate_from && !validated {
            return Verdict::Retry;
        }
        if self.counts.connections.load(Ordering::Relaxed) >= self.limits.connections {
            return Verdict::Ignore("full");
        }
        let source = source(from);
        if let Err(verdict) = self.spend(source, validated, now) {
            return verdict;
        }
        self.counts.handshakes.fetch_add(1, Ordering::Relaxed);
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        Verdict::Accept(Place {
            counts: Arc::clone(&self.counts),
            source,
            validated,
            shaking: true,
        })
    }

    fn spend(&self, source: IpAddr, validated: bool, now: Instant) -> Result<(), Verdict> {
        let (burst, rate) = (f64::from(self.limits.burst), f64::from(self.limits.per_second));
        let refilled = |budget: &Budget| {
            let passed = now.saturating_duration_since(budget.at).as_secs_f64();
            (budget.left + passed * rate).min(burst)
        };
        let mut sources = self.counts.sources();
        if sources.len() >= SOURCES && !sources.contains_key(&source) {
            // Full budgets need no account.
            sources.retain(|_, budget| budget.held > 0 || refilled(budget) < burst);
            if sources.len() >= SOURCES {
                return Err(Verdict::Ignore("rate"));
            }
        }
        let fresh = Budget { left: burst, at: now, held: 0, shaking: 0 };
        let budget = sources.entry(source).or_insert(fresh);
        budget.left = refilled(budget);
        budget.at = now;
        if validated && budget.shaking >= self.limits.share {
            return Err(Verdict::Refuse("share"));
        }
        if budget.left < 1.0 || budget.held >= self.limits.per_source {
            return Err(Verdict::Ignore("rate"));
        }
        budget.left -= 1.0;
        budget.held += 1;
        budget.shaking += u32::from(validated);
        Ok(())
    }
}

impl Counts {
    fn sources(&self) -> MutexGuard<'_, HashMap<IpAddr, Budget>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The handshake is done.
    pub fn established(&mut self) {
        if std::mem::take(&mut self.shaking) {
            self.counts.handshakes.fetch_sub(1, Ordering::Relaxed);
            if self.validated {
                self.account(|budget| budget.shaking = budget.shaking.saturating_sub(1));
            }
        }
    }

    fn account(&self, change: impl FnOnce(&mut Budget)) {
        if let Some(budget) = self.counts.sources().get_mut(&self.source) {
            change(budget);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.established();
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
        self.account(|budget| budget.held = budget.held.saturating_sub(1));
    }
}

/// One IPv4 address, or one IPv6 /64: what one customer has.
fn source(from: SocketAddr) -> IpAddr {
    match from.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits = Limits {
        validate_from: 2,
        handshakes: 4,
        share: 3,
        connections: 6,
        burst: 3,
        per_second: 1,
        per_source: 3,
    };

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1000))
    }

    #[test]
    fn under_load_an_address_is_validated_first() {
        let admission = Admission::new(LIMITS);
        let now = Instant::now();
        let _one = admission.judge(address(1), false, now);
        let two = admission.judge(address(2), false, now);
        assert!(matches!(admission.judge(address(3), false, now), Verdict::Retry));
        let three = admission.judge(address(3), true, now);
        assert!(matches!(three, Verdict::Accept(_)));
        drop((two, three));
        assert!(matches!(admission.judge(address(4), false, now), Verdict::Accept(_)));
    }

    #[test]
    fn one_source_has_a_budget_that_refills() {
        let admission = Admission::new(LIMITS);
        let now = Instant::now();
        for _ in 0..3 {
            assert!(matches!(admission.judge(address(1), true, now), Verdict::Accept(_)));
        }
        assert!(matches!(admission.judge(address(1), true, now), Verdict::Ignore("rate")));
        assert!(matches!(admission.judge(address(2), true, now), Verdict::Accept(_)));
        let later = now + Duration::from_secs(1);
        assert!(matches!(admission.judge(address(1), true, later), Verdict::Accept(_)));
        assert!(matches!(admission.judge(address(1), true, later), Verdict::Ignore("rate")));
    }

    #[test]
    fn one_source_leaves_connections_to_others() {
        let admission = Admission::new(LIMITS);
        let now = Instant::now();
        let mut places = Vec::new();
        for second in 0..6 {
            // It waits for its budget, and keeps what it gets.
            let later = now + Duration::from_secs(second);
            if let Verdict::Accept(mut place) = admission.judge(address(1), true, later) {
                place.established();
                places.push(place);
            }
        }
        assert_eq!(places.len(), 3);
        let later = now + Duration::from_secs(10);
        assert!(matches!(admission.judge(address(2), true, later), Verdict::Accept(_)));
        places.pop();
        assert!(matches!(admission.judge(address(1), true, later), Verdict::Accept(_)));
    }

    #[test]
    fn a_source_that_finishes_no_handshake_leaves_places_to_others() {
        let limits = Limits { validate_from: 1, share: 2, burst: 100, per_source: 100, ..LIMITS };
        let admission = Admission::new(limits);
        let now = Instant::now();
        // All that one host can get: what needs no validated address, and its share.
        let stranger = admission.judge(address(1), false, now);
        assert!(matches!(admission.judge(address(1), false, now), Verdict::Retry));
        let mut places = Vec::new();
        while let Verdict::Accept(place) = admission.judge(address(1), true, now) {
            places.push(place);
        }
        assert_eq!(places.len(), 2);
        assert!(matches!(admission.judge(address(1), true, now), Verdict::Refuse("share")));
        assert!(matches!(admission.judge(address(2), true, now), Verdict::Accept(_)));
        // A handshake that is done makes room for another, one that was given up too.
        places[0].established();
        let third = admission.judge(address(1), true, now);
        assert!(matches!(third, Verdict::Accept(_)));
        assert!(matches!(admission.judge(address(1), true, now), Verdict::Refuse("share")));
        drop((third, stranger));
        assert!(matches!(admission.judge(address(1), true, now), Verdict::Accept(_)));
    }

    #[test]
    fn who_uses_another_s_address_does_not_take_its_share() {
        let admission = Admission::new(Limits { share: 1, ..LIMITS });
        let now = Instant::now();
        let spoofed = [(); 2].map(|()| admission.judge(address(1), false, now));
        assert!(spoofed.iter().all(|verdict| matches!(verdict, Verdict::Accept(_))));
        assert!(matches!(admission.judge(address(1), true, now), Verdict::Accept(_)));
    }

    #[test]
    fn no_host_can_take_all_handshakes_of_a_port() {
        for Limits { validate_from, share, handshakes, .. } in [Limits::CONTROL, Limits::ENROLL] {
            assert!(share as usize <= handshakes / 2);
            assert!(validate_from + (share as usize) < handshakes);
        }
    }

    #[test]
    fn handshakes_and_connections_are_bounded() {
        let admission = Admission::new(LIMITS);
        let now = Instant::now();
        let mut places = Vec::new();
        for last in 0..4 {
            let Verdict::Accept(place) = admission.judge(address(last), true, now) else {
                panic!("there is room")
            };
            places.push(place);
        }
        assert!(matches!(admission.judge(address(9), true, now), Verdict::Refuse("busy")));
        places.iter_mut().for_each(Place::established);
        for last in 10..12 {
            let Verdict::Accept(place) = admission.judge(address(last), true, now) else {
                panic!("there is room")
            };
            places.push(place);
        }
        assert!(matches!(admission.judge(address(13), true, now), Verdict::Ignore("full")));
        places.clear();
        assert!(matches!(admission.judge(address(13), true, now), Verdict::Accept(_)));
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::2]:2"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("[::ffff:192.0.2.1]:1"), of("192.0.2.1:1"));
    }
}
