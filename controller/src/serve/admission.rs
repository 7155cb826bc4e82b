//! Which connection attempts get a handshake. A handshake costs a signature here and one packet there, so it is limited
//! before anything is computed.
//!
//! - While few handshakes are under way, every source gets one.
//! - From [`Limits::validate_from`] on, a source must prove its address first (Retry, RFC 9000 section 8.1.2), which
//!   takes no memory.
//! - Each source has a token bucket. Attempts beyond it are ignored; QUIC tries again by itself.
//! - With [`Limits::handshakes`] under way, attempts are refused. That is fewer than the machine completes before clients
//!   give up. The number of connections is limited too.
//! - One source gets at most [`Limits::share`] of the handshakes, so that a source that starts handshakes and completes
//!   none leaves places to others. Only handshakes with a proven address count: the others are few, and somebody else
//!   may have forged the address.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::rate::{Rate, TokenBucket, source_of};

/// Limits of one port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Handshakes under way from which sources must prove their address.
    pub(super) validate_from: usize,
    /// Handshakes under way.
    pub(super) handshakes: usize,
    /// Handshakes under way of one source with a proven address. The sum with
    /// [`validate_from`](Self::validate_from) is less than [`handshakes`](Self::handshakes): no single host can take
    /// the rest.
    pub(super) share: u32,
    pub(super) connections: usize,
    /// Handshakes that one source may start.
    pub(super) rate: Rate,
    /// Connections of one source.
    pub(super) per_source: u32,
}

impl Limits {
    /// The control port. A thousand edges behind one address come back within seconds.
    ///
    /// Handshakes under way share the processors, and a client gives up after 4 s: a machine that does 20 a second
    /// completes 64 in time. With more under way than it can complete in time, it would complete none.
    pub(super) const CONTROL: Self = Self {
        validate_from: 16,
        handshakes: 64,
        share: 32,
        connections: 16_384,
        rate: Rate::per_second(1_024, 256),
        per_source: 16_384,
    };
    /// The enrolment port, which is open to everybody: a source that uses all its limits leaves most of the port to
    /// others.
    pub(super) const ENROLL: Self = Self {
        validate_from: 16,
        handshakes: 128,
        share: 64,
        connections: 1_024,
        rate: Rate::per_second(128, 16),
        per_source: 128,
    };
}

/// What to do with a connection attempt.
#[derive(Debug)]
pub(super) enum Decision {
    /// Start the handshake. Dropping the slot frees it.
    Accept(Slot),
    /// Have the source prove its address.
    Retry,
    /// Send a refusal. A QUIC client ends the attempt and comes back after a random delay. An ignored one would send four
    /// packets in as many seconds; from thousands of clients these would fill the socket that the sessions need.
    Refuse(&'static str),
    /// Send nothing.
    Ignore(&'static str),
}

/// Sources in memory.
const MAX_SOURCES: usize = 16_384;

/// The account of one port.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    handshakes: AtomicUsize,
    connections: AtomicUsize,
    sources: Mutex<HashMap<IpAddr, Source>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Source {
    bucket: TokenBucket,
    /// Connections, and handshakes under way.
    connections: u32,
    /// Handshakes under way with a proven address.
    handshakes: u32,
}

/// A connection's slot. It is also a handshake's until [`established`](Self::established).
#[derive(Debug)]
pub(super) struct Slot {
    counts: Arc<Counts>,
    source: IpAddr,
    validated: bool,
    in_handshake: bool,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, counts: Arc::default() }
    }

    /// Decides about an attempt. `validated`: the source has proven its address.
    pub(super) fn judge(&self, from: SocketAddr, validated: bool, now: Instant) -> Decision {
        let handshakes = self.counts.handshakes.load(Ordering::Relaxed);
        if handshakes >= self.limits.handshakes {
            return Decision::Refuse("busy");
        }
        if handshakes >= self.limits.validate_from && !validated {
            return Decision::Retry;
        }
        if self.counts.connections.load(Ordering::Relaxed) >= self.limits.connections {
            return Decision::Ignore("full");
        }
        let source = source_of(from.ip());
        if let Err(decision) = self.count_source(source, validated, now) {
            return decision;
        }
        self.counts.handshakes.fetch_add(1, Ordering::Relaxed);
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let counts = Arc::clone(&self.counts);
        Decision::Accept(Slot { counts, source, validated, in_handshake: true })
    }

    fn count_source(&self, source: IpAddr, validated: bool, now: Instant) -> Result<(), Decision> {
        let mut sources = self.counts.sources();
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, source| source.connections > 0 || !source.bucket.is_full(now));
            if sources.len() >= MAX_SOURCES {
                return Err(Decision::Ignore("rate"));
            }
        }
        let source = sources.entry(source).or_default();
        if validated && source.handshakes >= self.limits.share {
            return Err(Decision::Refuse("share"));
        }
        if source.connections >= self.limits.per_source
            || !source.bucket.take(self.limits.rate, now)
        {
            return Err(Decision::Ignore("rate"));
        }
        source.connections += 1;
        source.handshakes += u32::from(validated);
        Ok(())
    }
}

impl Counts {
    fn sources(&self) -> MutexGuard<'_, HashMap<IpAddr, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The handshake is complete.
    pub(super) fn established(&mut self) {
        if std::mem::take(&mut self.in_handshake) {
            self.counts.handshakes.fetch_sub(1, Ordering::Relaxed);
            if self.validated {
                self.update(|source| source.handshakes = source.handshakes.saturating_sub(1));
            }
        }
    }

    fn update(&self, change: impl FnOnce(&mut Source)) {
        if let Some(source) = self.counts.sources().get_mut(&self.source) {
            change(source);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.established();
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
        self.update(|source| source.connections = source.connections.saturating_sub(1));
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
        rate: Rate::per_second(3, 1),
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
        assert!(matches!(admission.judge(address(3), false, now), Decision::Retry));
        let three = admission.judge(address(3), true, now);
        assert!(matches!(three, Decision::Accept(_)));
        drop((two, three));
        assert!(matches!(admission.judge(address(4), false, now), Decision::Accept(_)));
    }

    #[test]
    fn one_source_has_a_rate_limit() {
        let admission = Admission::new(LIMITS);
        let now = Instant::now();
        for _ in 0..3 {
            assert!(matches!(admission.judge(address(1), true, now), Decision::Accept(_)));
        }
        assert!(matches!(admission.judge(address(1), true, now), Decision::Ignore("rate")));
        assert!(matches!(admission.judge(address(2), true, now), Decision::Accept(_)));
        let later = now + Duration::from_secs(1);
        assert!(matches!(admission.judge(address(1), true, later), Decision::Accept(_)));
        assert!(matches!(admission.judge(address(1), true, later), Decision::Ignore("rate")));
    }

    #[test]
    fn one_source_leaves_connections_to_others() {
        let admission = Admission::new(LIMITS);
        let now = Instant::now();
        let mut slots = Vec::new();
        for second in 0..6 {
            // It waits for its bucket to fill, and keeps its connections.
            let later = now + Duration::from_secs(second);
            if let Decision::Accept(mut slot) = admission.judge(address(1), true, later) {
                slot.established();
                slots.push(slot);
            }
        }
        assert_eq!(slots.len(), 3);
        let later = now + Duration::from_secs(10);
        assert!(matches!(admission.judge(address(2), true, later), Decision::Accept(_)));
        slots.pop();
        assert!(matches!(admission.judge(address(1), true, later), Decision::Accept(_)));
    }

    #[test]
    fn a_source_that_finishes_no_handshake_leaves_places_to_others() {
        let limits = Limits {
            validate_from: 1,
            share: 2,
            rate: Rate::per_second(100, 1),
            per_source: 100,
            ..LIMITS
        };
        let admission = Admission::new(limits);
        let now = Instant::now();
        // All that one host can get: what needs no proven address, and its share.
        let stranger = admission.judge(address(1), false, now);
        assert!(matches!(admission.judge(address(1), false, now), Decision::Retry));
        let mut slots = Vec::new();
        while let Decision::Accept(slot) = admission.judge(address(1), true, now) {
            slots.push(slot);
        }
        assert_eq!(slots.len(), 2);
        assert!(matches!(admission.judge(address(1), true, now), Decision::Refuse("share")));
        assert!(matches!(admission.judge(address(2), true, now), Decision::Accept(_)));
        // A completed handshake makes room for another, and so does one that was given up.
        slots[0].established();
        let third = admission.judge(address(1), true, now);
        assert!(matches!(third, Decision::Accept(_)));
        assert!(matches!(admission.judge(address(1), true, now), Decision::Refuse("share")));
        drop((third, stranger));
        assert!(matches!(admission.judge(address(1), true, now), Decision::Accept(_)));
    }

    #[test]
    fn a_forged_address_does_not_use_up_the_share_of_its_owner() {
        let admission = Admission::new(Limits { share: 1, ..LIMITS });
        let now = Instant::now();
        let spoofed = [(); 2].map(|()| admission.judge(address(1), false, now));
        assert!(spoofed.iter().all(|verdict| matches!(verdict, Decision::Accept(_))));
        assert!(matches!(admission.judge(address(1), true, now), Decision::Accept(_)));
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
        let mut slots = Vec::new();
        for last in 0..4 {
            let Decision::Accept(slot) = admission.judge(address(last), true, now) else {
                panic!("there is room")
            };
            slots.push(slot);
        }
        assert!(matches!(admission.judge(address(9), true, now), Decision::Refuse("busy")));
        slots.iter_mut().for_each(Slot::established);
        for last in 10..12 {
            let Decision::Accept(slot) = admission.judge(address(last), true, now) else {
                panic!("there is room")
            };
            slots.push(slot);
        }
        assert!(matches!(admission.judge(address(13), true, now), Decision::Ignore("full")));
        slots.clear();
        assert!(matches!(admission.judge(address(13), true, now), Decision::Accept(_)));
    }
}
