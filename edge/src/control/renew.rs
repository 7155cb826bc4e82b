//! Renewal of our certificate, with a new key, over the session.

use cframe_pki::{
    identity::PeerIdentity,
    key::PrivateKey,
    renewal::{renew_at, retry_at},
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

#[derive(Debug)]
pub(super) struct Renewal {
    /// When to ask, in Unix seconds.
    pub(super) at: u64,
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
            error: None,
            pending: None,
            seed,
            warned: 0,
        }
    }
}

impl Site {
    /// Asks for a certificate when that is due, and warns when little of it is left.
    pub(super) async fn renew_when_due(&mut self) {
        let now = unix_now();
        self.warn_of_expiry(now);
        let connected = self.connection.controller.is_some();
        if now < self.renewal.at || !connected || self.renewal.pending.is_some() {
            return;
        }
        self.renewal.at = retry_at(now, self.renewal.seed ^ now);
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
        self.renewal.at = 0;
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
                self.renewal.error = None;
                self.renewal.at =
                    renew_at(identity.not_before, identity.not_after, self.renewal.seed);
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
        let lifetime = identity.not_after.saturating_sub(identity.not_before);
        let left = identity.not_after.saturating_sub(now);
        if left < lifetime / 4 && now >= self.renewal.warned.saturating_add(DAY) {
            self.renewal.warned = now;
            let days = left / DAY;
            warn!(
                days,
                "the certificate expires soon and was not renewed: is a controller reachable?"
            );
        }
    }
}
