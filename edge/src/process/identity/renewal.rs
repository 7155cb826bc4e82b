//! When the certificate is renewed, and the new key while its certificate is on the way.

use std::time::{Duration, Instant};

use cframe_pki::{
    identity::PeerIdentity,
    key::PrivateKey,
    renewal::{days_left, expires_soon, renew_at, retry_at},
};
use tracing::warn;

const WARN_INTERVAL_SECS: u64 = 86_400;

#[derive(Debug)]
pub(in crate::process) struct Renewal {
    /// From when on a renewal is due, in Unix seconds.
    at: u64,
    /// The earliest next attempt, on the monotonic clock: a wall clock that was far ahead for a
    /// moment delays nothing else.
    retry_at: Option<Instant>,
    /// Why the last request failed.
    pub(in crate::process) error: Option<String>,
    /// The new key, while a request for its certificate is under way.
    pub(super) pending: Option<PrivateKey>,
    seed: u64,
    /// When expiry was last logged, in Unix seconds.
    warned: u64,
}

impl Renewal {
    pub(super) fn new(identity: &PeerIdentity) -> Self {
        // Derived from the key, so that a restart does not draw another, earlier time.
        let [a, b, c, d, e, f, g, h, ..] = *identity.spki.as_bytes();
        let seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        Self {
            at: renew_at(identity.not_before, identity.not_after, seed),
            retry_at: None,
            error: None,
            pending: None,
            seed,
            warned: 0,
        }
    }

    /// When the next request is sent, in Unix seconds. `clock` is now.
    pub(super) fn next(&self, clock: u64) -> u64 {
        let wait = self.retry_at.map_or(Duration::ZERO, |at| at.duration_since(Instant::now()));
        match wait.as_secs() {
            0 => self.at,
            secs => self.at.max(clock.saturating_add(secs)),
        }
    }

    pub(super) fn is_due(&self, clock: u64, now: Instant) -> bool {
        clock >= self.at && self.retry_at.is_none_or(|at| now >= at) && self.pending.is_none()
    }

    pub(in crate::process) fn schedule_now(&mut self) {
        (self.at, self.retry_at) = (0, None);
    }

    /// Makes a key and returns the CSR for it.
    pub(super) fn request(&mut self, clock: u64, now: Instant) -> Option<Vec<u8>> {
        self.schedule_retry(clock, now);
        match PrivateKey::generate().and_then(|key| Ok((key.csr()?, key))) {
            Ok((csr, key)) => {
                self.pending = Some(key);
                Some(csr.to_vec())
            }
            Err(error) => {
                warn!(%error, "no key could be made for the renewal");
                None
            }
        }
    }

    /// In case the attempt that starts now fails.
    fn schedule_retry(&mut self, clock: u64, now: Instant) {
        let wait = retry_at(clock, self.seed ^ clock).saturating_sub(clock);
        self.retry_at = Some(now + Duration::from_secs(wait));
    }

    pub(super) fn warn_of_expiry(&mut self, identity: &PeerIdentity, now: u64) {
        if let Some(text) = expiry(identity, now)
            && now >= self.warned.saturating_add(WARN_INTERVAL_SECS)
        {
            self.warned = now;
            warn!("{text}");
        }
    }
}

/// The certificate has expired, or expires soon. `clock` is in Unix seconds.
fn expiry(certificate: &PeerIdentity, clock: u64) -> Option<String> {
    let PeerIdentity { not_before, not_after, .. } = *certificate;
    if clock > not_after {
        return Some(
            "the certificate has expired: controllers and peers refuse it; join again: \
             cfctl token create --rejoin, then cframe-edge join TOKEN"
                .to_owned(),
        );
    }
    expires_soon(not_before, not_after, clock).then(|| {
        format!(
            "the certificate expires in {} days and was not renewed: is a controller reachable?",
            days_left(not_after, clock)
        )
    })
}

#[cfg(test)]
mod tests {
    use cframe_pki::{Fingerprint, Serial};

    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn a_clock_that_was_far_ahead_for_a_moment_delays_the_renewal_by_no_more_than_a_retry() {
        let start = 1_800_000_000;
        let mut renewal = Renewal::new(&PeerIdentity {
            id: "spiffe://mesh.example/ns/prod/edge/idc".parse().unwrap(),
            serial: Serial::from_bytes([1; 16]),
            spki: Fingerprint::from_bytes([2; 32]),
            issuer: None,
            not_before: start,
            not_after: start + 30 * DAY,
        });
        let now = Instant::now();
        assert!(!renewal.is_due(start + DAY, now));
        // Ten years ahead: requested, and refused.
        let ahead = start + 3650 * DAY;
        assert!(renewal.is_due(ahead, now));
        renewal.schedule_retry(ahead, now);
        assert!(!renewal.is_due(ahead, now), "not again at once");
        // The clock is right again, and the certificate decides when renewal is due.
        let later = now + Duration::from_secs(2 * 3600);
        assert!(!renewal.is_due(start + 2 * DAY, later));
        assert!(renewal.is_due(start + 25 * DAY, later));
    }
}
