//! Renewal of our certificate, with a new key, over the session.

use std::time::{Duration, Instant};

use cframe_pki::{
    identity::PeerIdentity,
    key::PrivateKey,
    renewal::{days_left, expires_soon, renew_at, retry_at},
    unix_now,
};
use cframe_protocol::{
    session::Command,
    v1::{CallError, Enrolled},
};
use tracing::{info, warn};

use super::Site;
use crate::state;

/// A day, in seconds.
const DAY: u64 = 86_400;

/// What an edge says whose certificate has expired.
pub(super) const EXPIRED: &str = "the certificate has expired, so that no controller and no peer takes it; join \
    again: cfctl token create --rejoin, then cframe-edge join TOKEN";

#[derive(Debug)]
pub(super) struct Renewal {
    /// From when on to ask, in Unix seconds.
    at: u64,
    /// Not before, after an attempt: a clock that was far ahead for a moment delays nothing else.
    again: Option<Instant>,
    /// Why the last request failed.
    pub(super) error: Option<String>,
    /// The new key, while its certificate is asked for.
    pending: Option<PrivateKey>,
    seed: u64,
    warned: u64,
}

impl Renewal {
    pub(super) fn new(identity: &PeerIdentity) -> Self {
        // Of the key, so that restarts don't draw again until an early moment comes up.
        let [a, b, c, d, e, f, g, h, ..] = *identity.spki.as_bytes();
        let seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        Self {
            at: renew_at(identity.not_before, identity.not_after, seed),
            again: None,
            error: None,
            pending: None,
            seed,
            warned: 0,
        }
    }

    /// When to ask, in Unix seconds.
    pub(super) fn next(&self, clock: u64) -> u64 {
        let wait = self.again.map_or(Duration::ZERO, |at| at.duration_since(Instant::now()));
        match wait.as_secs() {
            0 => self.at,
            secs => self.at.max(clock.saturating_add(secs)),
        }
    }

    fn is_due(&self, clock: u64, now: Instant) -> bool {
        clock >= self.at && self.again.is_none_or(|at| now >= at) && self.pending.is_none()
    }

    /// An attempt begins: the next one is for later, should it fail.
    fn begin(&mut self, clock: u64, now: Instant) {
        let wait = retry_at(clock, self.seed ^ clock).saturating_sub(clock);
        self.again = Some(now + Duration::from_secs(wait));
    }
}

impl Site {
    /// Asks for a certificate when that is due, and warns when little of it is left.
    pub(super) async fn renew_when_due(&mut self) {
        let now = unix_now();
        self.warn_of_expiry(now);
        let connected = self.connection.controller.is_some();
        if !connected || !self.renewal.is_due(now, Instant::now()) {
            return;
        }
        self.renewal.begin(now, Instant::now());
        let request = PrivateKey::generate().and_then(|key| Ok((key.csr()?, key)));
        match request {
            Ok((csr, key)) => {
                self.renewal.pending = Some(key);
                self.tell(Command::Renew { csr: csr.to_vec() }).await;
            }
            Err(error) => warn!(%error, "no new key for the renewal"),
        }
    }

    /// Somebody wants it renewed now.
    pub(super) async fn renew_now(&mut self) {
        (self.renewal.at, self.renewal.again) = (0, None);
        self.renew_when_due().await;
    }

    pub(super) fn renewed(&mut self, result: Result<Enrolled, CallError>) {
        let Some(key) = self.renewal.pending.take() else {
            return warn!("a certificate came that was not asked for");
        };
        let used = match result {
            Ok(enrolled) => self.use_certificate(key, &enrolled),
            Err(error) => Err(error.into()),
        };
        match used {
            Ok(identity) => {
                info!(serial = %identity.serial, not_after = identity.not_after, "certificate renewed");
                self.renewal = Renewal::new(&identity);
                self.driver.credentials_renewed();
            }
            Err(error) => {
                warn!("the certificate was not renewed: {error:#}; trying again within the hour");
                self.renewal.error = Some(format!("{error:#}"));
            }
        }
    }

    fn use_certificate(
        &self,
        key: PrivateKey,
        enrolled: &Enrolled,
    ) -> anyhow::Result<PeerIdentity> {
        let credentials = state::credentials(key, enrolled)?;
        let identity = credentials.identity()?;
        let ours = &self.credentials.identity().id;
        if identity.id != *ours {
            anyhow::bail!("it is for {} and we are {ours}", identity.id);
        }
        // On the disk first: a key that is used and lost could not be told from a stolen one.
        credentials.save(&self.state.dir)?;
        self.credentials.replace(credentials)?;
        Ok(identity)
    }

    fn warn_of_expiry(&mut self, now: u64) {
        let identity = self.credentials.identity();
        let soon = expires_soon(identity.not_before, identity.not_after, now);
        if !soon || now < self.renewal.warned.saturating_add(DAY) {
            return;
        }
        self.renewal.warned = now;
        let days = days_left(identity.not_after, now);
        if days < 0 {
            warn!(days, "{EXPIRED}");
        } else {
            warn!(
                days,
                "the certificate expires soon and was not renewed: is a controller reachable?"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use cframe_pki::{Fingerprint, Serial};

    use super::*;

    #[test]
    fn a_clock_that_was_far_ahead_for_a_moment_delays_the_renewal_by_no_more_than_a_retry() {
        let (start, day) = (1_800_000_000, DAY);
        let mut renewal = Renewal::new(&PeerIdentity {
            id: "spiffe://mesh.example/ns/prod/edge/idc".parse().unwrap(),
            serial: Serial::from_bytes([1; 16]),
            spki: Fingerprint::from_bytes([2; 32]),
            issuer: None,
            not_before: start,
            not_after: start + 30 * day,
        });
        let now = Instant::now();
        assert!(!renewal.is_due(start + day, now));
        // Ten years ahead: asked for, and refused.
        let ahead = start + 3650 * day;
        assert!(renewal.is_due(ahead, now));
        renewal.begin(ahead, now);
        assert!(!renewal.is_due(ahead, now), "not again at once");
        // Back, and due by the certificate.
        let later = now + Duration::from_secs(2 * 3600);
        assert!(!renewal.is_due(start + 2 * day, later));
        assert!(renewal.is_due(start + 25 * day, later));
    }
}
